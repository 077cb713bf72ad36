"""Explain a session or a ledger entry: facts, seconds x price, S, cents, and what was posted by which entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, AttributionId, NameKind, parse_attribution, parse_uuid, subject_of
from usage_tasks.domain.errors import InvalidInputError, InvariantError, NoSuchError
from usage_tasks.domain.explanation import (
    ExplainedEntry,
    SessionExplanation,
    SessionFacts,
    SettlementExplanation,
    explain_session,
    session_in_words,
    settlement_in_words,
)
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.rating import rate
from usage_tasks.domain.timelines import prices_along
from usage_tasks.storage.directory.names import find_names
from usage_tasks.storage.ledger import balances, explanation
from usage_tasks.storage.pricing import prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The numbers, and the same numbers in words."""

    numbers: SessionExplanation | SettlementExplanation
    text: str


def explain_instance(connection: Connection, instance_id: UUID, *, at: datetime) -> Explained:
    """Explain a session as of an instant: its price up to then, what is posted of it, what is not.

    Raises InvalidInputError for a session that was never reported.
    """
    return _session(connection, _get_session(connection, instance_id), at=at, entry=None)


def explain_entry(connection: Connection, attribution_id: AttributionId, key: str, *, at: datetime) -> Explained:
    """Explain an entry of an account; of usage its whole session.

    Raises InvalidInputError for a key that does not stand, and for an instant before the entry takes effect.
    """
    found = explanation.find_entry(connection, attribution_id, key)
    if found is None:
        raise NoSuchError("entry_key", key, f"entry of {attribution_id}")
    entry, instance_id = found
    if entry.effective_at > at:
        raise InvalidInputError(
            "at", at.isoformat(), f"at or after {entry.effective_at.isoformat()}, when the entry takes effect"
        )
    if instance_id is not None:
        return _session(connection, _get_session(connection, instance_id), at=at, entry=entry)
    return _settlement(connection, attribution_id, entry)


def find_subject(
    connection: Connection, attribution_id: str | None, entry_key: str | None, instance_id: str | None
) -> tuple[Account | None, UUID | None]:
    """Return the account of an explanation and, if it is of one session, the session's user."""
    session = None if instance_id is None else parse_uuid(instance_id)
    account = None if attribution_id is None else parse_attribution(attribution_id)
    if account is not None and entry_key is not None:
        found = explanation.find_entry(connection, account.attribution_id, entry_key)
        session = None if found is None else found[1]
    owner = None if session is None else explanation.find_owner(connection, session)
    if owner is None:
        return account, None
    return account or parse_attribution(owner.attribution_id), owner.user_id


def _get_session(connection: Connection, instance_id: UUID) -> SessionFacts:
    facts = explanation.find_session(connection, instance_id)
    if facts is None:
        raise NoSuchError("instance_id", str(instance_id), "session")
    return facts


def _session(connection: Connection, facts: SessionFacts, *, at: datetime, entry: ExplainedEntry | None) -> Explained:
    keys = {facts.workspace_class, *(each.price_key for each in facts.timeline)}
    until = at if facts.ended_at is None else min(facts.ended_at, at)
    try:
        histories = prices.list_histories(connection, keys)
        versions = prices_along(facts.timeline, histories, class_at_start=facts.workspace_class)
        rating = rate(facts.started_at, until, versions)
    except (KeyError, ValueError) as error:
        raise InvariantError(f"session {facts.instance_id}: class {facts.workspace_class}: {error}") from error
    entries = explanation.list_session_entries(connection, facts, at=at)
    numbers = explain_session(facts, rating, entries, histories=histories, at=at, entry=entry)
    named = _named(connection, session=subject_of(NameKind.SESSION, facts.instance_id), account=facts.attribution_id)
    return Explained(numbers=numbers, text=session_in_words(numbers, named=named))


def _settlement(connection: Connection, attribution_id: AttributionId, entry: ExplainedEntry) -> Explained:
    limit = None
    if entry.kind == EntryKind.RESET:
        limit = explanation.find_limit_of_ended_cycle(connection, attribution_id, ended_at=entry.effective_at)
    after = balances.get_balance(connection, attribution_id, at=entry.effective_at)
    numbers = SettlementExplanation(
        attribution_id=attribution_id,
        entry=entry,
        balance_before_cents=after - entry.credit_cents,
        balance_after_cents=after,
        spending_limit=limit,
    )
    named = _named(connection, account=attribution_id)
    return Explained(numbers=numbers, text=settlement_in_words(numbers, named=named))


def _named(connection: Connection, **subjects: str) -> Mapping[str, Sequence[str]]:
    """Return the names of each subject that has one, by what it is."""
    names = find_names(connection, subjects.values())
    return {what: [*filter(None, names[subject])] for what, subject in subjects.items() if subject in names}

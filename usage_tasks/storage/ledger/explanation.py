"""The parts of an explanation: a session's facts, its entries, the limit of a cycle that has ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Row

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.explanation import ExplainedEntry, SessionFacts
from usage_tasks.storage import keys
from usage_tasks.storage.ledger.posting import posted_of
from usage_tasks.storage.pricing.timelines_sql import decode
from usage_tasks.storage.rows import fetch

_ENTRY = "key, kind, credit_cents, effective_at, posted_at, description"


def find_session(connection: Connection, instance_id: UUID) -> SessionFacts | None:
    """Return the known facts of a session, or None if it was never reported."""
    statement = f"""
        SELECT w.instance_id, w.attribution_id, w.workspace_class, w.timeline, w.started_at, w.ended_at,
               w.final_at AS stopped_at, COALESCE(o.revision, e.entries) AS revision, e.entries AS posted_revision
        FROM workspace_instance w
        LEFT JOIN open_session o USING (attribution_id, instance_id)
        CROSS JOIN LATERAL ({posted_of("w")}) AS e
        WHERE w.instance_id = :instance_id
    """
    rows = fetch(connection, statement, instance_id=instance_id)
    return SessionFacts(**{**rows[0]._mapping, "timeline": decode(rows[0].timeline)}) if rows else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOwner:
    """The user who ran a session, and the account that pays for it."""

    attribution_id: AttributionId
    user_id: UUID


def find_owner(connection: Connection, instance_id: UUID) -> SessionOwner | None:
    """Return the owner of a session, or None if it was never reported."""
    statement = "SELECT attribution_id, user_id FROM workspace_instance WHERE instance_id = :instance_id"
    rows = fetch(connection, statement, instance_id=instance_id)
    return SessionOwner(attribution_id=rows[0].attribution_id, user_id=rows[0].user_id) if rows else None


def list_session_entries(connection: Connection, facts: SessionFacts, *, at: datetime) -> Sequence[ExplainedEntry]:
    """List a session's entries that are in effect by an instant, in the order of its revisions."""
    statement = f"""
        SELECT {_ENTRY} FROM ledger_entry
        WHERE attribution_id = :account AND effective_at <= :at
            AND {keys.is_of_session("key", "CAST(:instance_id AS text)")}
        ORDER BY CAST({keys.revision_of("key")} AS int)
    """
    rows = fetch(connection, statement, account=facts.attribution_id, instance_id=str(facts.instance_id), at=at)
    return [_entry(row) for row in rows]


def find_entry(
    connection: Connection, attribution_id: AttributionId, key: str
) -> tuple[ExplainedEntry, UUID | None] | None:
    """Return an entry and, where it is usage, the session that it is of; None for a key that does not stand."""
    statement = f"""
        SELECT {_ENTRY}, instance_id FROM ledger_entry WHERE attribution_id = :account AND key = :key
    """
    rows = fetch(connection, statement, account=attribution_id, key=key)
    return (_entry(rows[0]), rows[0].instance_id) if rows else None


def find_limit_of_ended_cycle(
    connection: Connection, attribution_id: AttributionId, *, ended_at: datetime
) -> int | None:
    """Return the limit, in credits, that an account had on strategy other as its cycle ended at an instant."""
    statement = """
        SELECT spending_limit FROM cost_center
        WHERE attribution_id = :account AND billing_strategy = 'other' AND next_billing_at = :ended_at
        ORDER BY version DESC LIMIT 1
    """
    rows = fetch(connection, statement, account=attribution_id, ended_at=ended_at)
    return rows[0].spending_limit if rows else None


def _entry(row: Row[tuple[object, ...]]) -> ExplainedEntry:
    return ExplainedEntry(
        key=row.key,
        kind=row.kind,
        credit_cents=row.credit_cents,
        effective_at=row.effective_at,
        posted_at=row.posted_at,
        description=row.description,
    )

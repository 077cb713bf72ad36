"""`usage.*`: credit notes and grants. Ledger tasks: no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import StrictInt

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_attribution, parse_uuid
from usage_tasks.domain.grants import PRIORITY_DEFAULT, GrantTerms
from usage_tasks.runtime import runtime
from usage_tasks.services.ledger import add_credit_note as credit_note
from usage_tasks.services.ledger import grant_credits as grant
from usage_tasks.services.ledger.cost_center import get_cost_center
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, CapText, CreditText, Description, Moment, Name, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteAnswer:
    """The entry that stands for a credit note; its cents are below zero where credits were given."""

    key: str
    credit_cents: int
    effective_at: datetime


@task(name="usage.add_credit_note", time_limit=timedelta(seconds=30), needs=Role.ADMINISTRATOR)
def add_credit_note(
    attribution_id: Attribution,
    actor: ActorText,
    amount: CreditText,
    description: Description,
    idempotency_key: Name,
    user_id: UserId | None = None,
    at: Moment | None = None,
) -> CreditNoteAnswer:
    """Give an account credits, or charge it a negative amount; the same key twice is one entry.

    `user_id` is the user for whom the note is, if it is for one.
    """
    rt = runtime()
    who = parse_actor(actor)
    now = rt.effective_instant(at, who)
    with rt.transaction() as connection:
        note = credit_note.add_credit_note(
            connection,
            parse_attribution(attribution_id),
            amount=amount,
            description=description,
            idempotency_key=idempotency_key,
            user_id=None if user_id is None else parse_uuid(user_id),
            limits=rt.spending_limits,
            at=now,
            actor=who,
        )
    return CreditNoteAnswer(key=note.key, credit_cents=note.credit_cents, effective_at=note.effective_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantAnswer:
    """The grant that stands, under its number in its account."""

    number: int
    idempotency_key: str
    amount_cents: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    rollover_cap_cents: int | None


@task(name="usage.grant_credits", time_limit=timedelta(seconds=30), needs=Role.ADMINISTRATOR)
def grant_credits(
    attribution_id: Attribution,
    actor: ActorText,
    amount: CreditText,
    description: Description,
    idempotency_key: Name,
    priority: StrictInt = PRIORITY_DEFAULT,
    effective_at: Moment | None = None,
    expires_at: Moment | None = None,
    rollover_cap: CapText | None = None,
    at: Moment | None = None,
) -> GrantAnswer:
    """Give an account credits that pay its usage while they are in force; the same key twice is one grant.

    Grants of a lower `priority` burn first. `rollover_cap` bounds what goes into the next cycle; null: all of it.
    """
    rt = runtime()
    who = parse_actor(actor)
    now = rt.effective_instant(at, who)
    terms = GrantTerms(
        attribution_id=parse_attribution(attribution_id).attribution_id,
        key=idempotency_key,
        amount_cents=amount,
        priority=priority,
        effective_at=effective_at or now,
        expires_at=expires_at,
        rollover_cap_cents=rollover_cap,
        description=description,
    )
    with rt.transaction() as connection:
        held = grant.grant_credits(
            connection,
            terms,
            effective_at_given=effective_at is not None,
            limits=rt.spending_limits,
            at=now,
            actor=who,
        )
    return GrantAnswer(
        number=held.number,
        idempotency_key=held.terms.key,
        amount_cents=held.terms.amount_cents,
        priority=held.terms.priority,
        effective_at=held.terms.effective_at,
        expires_at=held.terms.expires_at,
        rollover_cap_cents=held.terms.rollover_cap_cents,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantsAnswer:
    """An account's grants, the newest first."""

    grants: Sequence[grant.GrantStanding]


@task(name="usage.list_grants", time_limit=timedelta(seconds=30), needs=Role.OWNER)
def list_grants(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> GrantsAnswer:
    """List an account's grants as of an instant: what is left, pending, paid and lapsed."""
    rt = runtime()
    account = parse_attribution(attribution_id)
    who = parse_actor(actor)
    read_at = rt.instant(at, who)
    settled_at = rt.settling_instant(read_at, who)
    with rt.transaction() as connection:
        get_cost_center(connection, account, limits=rt.spending_limits, at=settled_at, actor=who)
        return GrantsAnswer(grants=grant.list_grants(connection, account, at=read_at))

"""`usage.*` once more: credits that are given. Ledger tasks: no network."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from usage_tasks.domain.accounts import parse_actor, parse_attribution, parse_uuid
from usage_tasks.runtime import runtime
from usage_tasks.services import credit_note
from usage_tasks.tasks.arguments import ActorText, Attribution, CreditText, Description, Moment, Name, UuidText
from usage_tasks.tasks.task import task


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteAnswer:
    """The entry that stands for a credit note; its cents are below zero where credits were given."""

    key: str
    credit_cents: int
    effective_at: datetime


@task(name="usage.add_credit_note", time_limit=timedelta(seconds=30))
def add_credit_note(
    attribution_id: Attribution,
    actor: ActorText,
    amount: CreditText,
    description: Description,
    idempotency_key: Name,
    user_id: UuidText | None = None,
    at: Moment | None = None,
) -> CreditNoteAnswer:
    """Give an account credits, or charge it a negative amount; the same key twice is one entry."""
    rt = runtime()
    with rt.transaction() as connection:
        note = credit_note.add_credit_note(
            connection,
            parse_attribution(attribution_id),
            amount=amount,
            description=description,
            idempotency_key=idempotency_key,
            user_id=None if user_id is None else parse_uuid(user_id),
            limits=rt.spending_limits,
            at=rt.instant(at),
            actor=parse_actor(actor),
        )
    return CreditNoteAnswer(key=note.key, credit_cents=note.credit_cents, effective_at=note.effective_at)

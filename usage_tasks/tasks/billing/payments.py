"""`billing.*` on holds and disputes. Stripe tasks: no transaction is open during a call."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

from pydantic import StringConstraints

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_attribution
from usage_tasks.domain.disputes import DisputeId
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import runtime
from usage_tasks.services.payments import holds
from usage_tasks.services.payments.holds import ReleasedHolds
from usage_tasks.services.payments.reflect_dispute import DisputeOutcome, reflect_dispute
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, Moment

RELEASE_LIMIT: Final = 100


DisputeText = Annotated[str, StringConstraints(strict=True, pattern=r"^(du|dp)_[A-Za-z0-9_]{1,200}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldAnswer:
    """A hold to confirm in the payer's browser. The client secret is for that browser and for nothing else."""

    payment_intent_id: str
    client_secret: str
    status: str


@task(
    name="billing.create_hold_payment_intent",
    time_limit=timedelta(minutes=1),
    needs=Role.OWNER,
    answer_shown=False,
)
def create_hold_payment_intent(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> HoldAnswer:
    """Ask for a small hold in the customer's currency, or return the open hold; it is released in any case.

    Stripe.js confirms it in the payer's browser with `client_secret`.
    """
    rt = runtime()
    account = parse_attribution(attribution_id).attribution_id
    who = parse_actor(actor)
    acted_at = rt.effective_instant(at, who)
    hold = holds.create_hold(rt.transaction, rt.stripe, account, at=acted_at, actor=who)
    return HoldAnswer(payment_intent_id=hold.payment_intent_id, client_secret=hold.client_secret, status=hold.status)


@task(name="billing.release_holds", time_limit=timedelta(minutes=4))
def release_holds(at: Moment | None = None) -> ReleasedHolds:
    """Release holds that were left open for an hour; fails at the end if Stripe refused any."""
    rt = runtime()
    done = holds.release_due(rt.transaction, rt.stripe, at=rt.instant(at), limit=RELEASE_LIMIT)
    if done.failed:
        raise PermanentError(f"holds: {done.failed} failed, {done.retried} put off, {done.released} released")
    return done


@task(name="billing.on_charge_dispute", time_limit=timedelta(minutes=1), needs=Role.ADMINISTRATOR)
def on_charge_dispute(dispute_id: DisputeText, actor: ActorText, at: Moment | None = None) -> DisputeOutcome:
    """Fetch a dispute and bring blocks to where it stands: what its events do, for an operator to do again."""
    rt = runtime()
    dispute = rt.stripe.get_dispute(DisputeId(dispute_id))
    who = parse_actor(actor)
    now = rt.effective_instant(at, who)
    with rt.transaction() as connection:
        return reflect_dispute(connection, dispute, at=now, actor=who)

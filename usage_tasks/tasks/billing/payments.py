"""`billing.*` once more: payers, holds, tax, prices, disputes. Stripe tasks: no transaction is open during a call."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import StringConstraints

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_attribution
from usage_tasks.domain.disputes import DisputeId
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import runtime
from usage_tasks.services.payments import customers, holds
from usage_tasks.services.payments.customers import NextInvoice, TaxUpdate
from usage_tasks.services.payments.holds import ReleasedHolds
from usage_tasks.services.payments.reflect_dispute import DisputeOutcome, reflect_dispute
from usage_tasks.tasks.billing.sync import price_by_currency
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, Moment

RELEASE_LIMIT: Final = 100

DisputeText = Annotated[str, StringConstraints(strict=True, pattern=r"^(du|dp)_[A-Za-z0-9_]{1,200}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerInformation:
    """An account's customer as Stripe has it now."""

    stripe_customer_id: str
    deleted: bool
    currency: str | None
    tax_state: str | None
    has_payment_method: bool
    subscriptions: int


@task(name="billing.get_stripe_customer", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def get_stripe_customer(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> CustomerInformation:
    """Answer an account's customer as Stripe has it now; one that is only in Stripe is found there and stored."""
    rt = runtime()
    account = parse_attribution(attribution_id).attribution_id
    found = customers.get_customer(rt.transaction, rt.stripe, account, at=rt.instant(at), actor=parse_actor(actor))
    return CustomerInformation(
        stripe_customer_id=found.customer_id,
        deleted=found.deleted,
        currency=found.preferred_currency,
        tax_state=found.tax_state,
        has_payment_method=found.has_payment_method,
        subscriptions=len(found.subscriptions),
    )


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
    """Ask for a hold of 1.00 in the customer's currency, or answer the open one; it is released whatever happens."""
    rt = runtime()
    account = parse_attribution(attribution_id).attribution_id
    hold = holds.create_hold(rt.transaction, rt.stripe, account, at=rt.instant(at), actor=parse_actor(actor))
    return HoldAnswer(payment_intent_id=hold.payment_intent_id, client_secret=hold.client_secret, status=hold.status)


@task(name="billing.release_holds", time_limit=timedelta(minutes=4))
def release_holds(at: Moment | None = None) -> ReleasedHolds:
    """Let go of holds that were left open for an hour; fails at the end if Stripe refused any."""
    rt = runtime()
    done = holds.release_due(rt.transaction, rt.stripe, at=rt.instant(at), limit=RELEASE_LIMIT)
    if done.failed:
        raise PermanentError(f"holds: {done.failed} failed, {done.retried} put off, {done.released} released")
    return done


@task(name="billing.update_customer_subscriptions_tax_state", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def update_customer_subscriptions_tax_state(
    attribution_id: Attribution, actor: ActorText, at: Moment | None = None
) -> TaxUpdate:
    """Let an account's subscriptions tell tax where Stripe can place the customer, and not where it can't."""
    rt = runtime()
    account = parse_attribution(attribution_id).attribution_id
    return customers.update_tax_state(rt.transaction, rt.stripe, account, at=rt.instant(at), actor=parse_actor(actor))


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceAnswer:
    """What a credit costs an account; `unit_amount` in currency cents, as text, null for a tiered price."""

    price_id: str
    currency: str
    unit_amount: str | None
    human_readable_description: str


@task(name="billing.get_price_information", time_limit=timedelta(minutes=1), needs=Role.MEMBER)
def get_price_information(
    attribution_id: Attribution,
    actor: ActorText,  # noqa: ARG001 - judged before the task runs
    currency: Literal["eur", "usd"] | None = None,
) -> PriceAnswer:
    """Answer what an account pays a credit, in its customer's currency; without a customer in the one asked for."""
    rt = runtime()
    account = parse_attribution(attribution_id)
    found = customers.get_price_information(
        rt.transaction,
        rt.stripe,
        account.attribution_id,
        price_by_currency=price_by_currency(rt, account.kind),
        currency=currency,
    )
    return PriceAnswer(
        price_id=found.price_id,
        currency=found.currency,
        unit_amount=None if found.unit_amount is None else f"{found.unit_amount:f}",
        human_readable_description=found.human_readable_description,
    )


@task(name="billing.preview_invoice", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def preview_invoice(
    attribution_id: Attribution,
    actor: ActorText,  # noqa: ARG001 - judged before the task runs
) -> NextInvoice:
    """Ask Stripe what an account's next invoice comes to as far as its meter knows by now; nothing is stored."""
    rt = runtime()
    account = parse_attribution(attribution_id).attribution_id
    ours = rt.settings.stripe_prices.all_price_ids()
    return customers.preview_invoice(rt.transaction, rt.stripe, account, our_prices=ours)


@task(name="billing.on_charge_dispute", time_limit=timedelta(minutes=1), needs=Role.ADMINISTRATOR)
def on_charge_dispute(dispute_id: DisputeText, actor: ActorText, at: Moment | None = None) -> DisputeOutcome:
    """Fetch a dispute and bring blocks to where it stands: what its events do, for an operator to do again."""
    rt = runtime()
    dispute = rt.stripe.get_dispute(DisputeId(dispute_id))
    with rt.transaction() as connection:
        return reflect_dispute(connection, dispute, at=rt.instant(at), actor=parse_actor(actor))

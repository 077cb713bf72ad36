"""`billing.*` on an account in Stripe: customer, subscription, tax, prices. No transaction is open during a call."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from pydantic import StringConstraints

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import AccountKind, parse_actor, parse_attribution
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.holds import PaymentIntentId
from usage_tasks.domain.payments import CURRENCIES, NewCustomer
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.payments import customers, holds, subscribe
from usage_tasks.services.payments.customers import NextInvoice, TaxUpdate
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, Credits, Moment, Name, UserId

CurrencyCode = Annotated[str, StringConstraints(strict=True, pattern=r"^[a-z]{3}$")]
IntentId = Annotated[str, StringConstraints(strict=True, pattern=r"^pi_[A-Za-z0-9]{1,200}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerAnswer:
    """An account's customer in Stripe."""

    stripe_customer_id: str


@task(name="billing.create_stripe_customer", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def create_stripe_customer(
    attribution_id: Attribution,
    actor: ActorText,
    email: Annotated[str, StringConstraints(strict=True, min_length=3, max_length=320, pattern=r"^[^@\s]+@[^@\s]+$")],
    name: Name,
    currency: CurrencyCode,
    billing_creator_user_id: UserId,
    at: Moment | None = None,
) -> CustomerAnswer:
    """Create an account's customer in Stripe, or return the existing one.

    A sender by name hides the arguments, which hold the e-mail: `argsrepr="(hidden)", kwargsrepr="(hidden)"`.
    """
    rt = runtime()
    account = parse_attribution(attribution_id)
    _check_currency(rt, account.kind, currency)
    customer = NewCustomer(
        attribution_id=account.attribution_id,
        email=email,
        name=name,
        currency=currency,
        billing_creator_user_id=billing_creator_user_id,
    )
    who = parse_actor(actor)
    acted_at = rt.effective_instant(at, who)
    made = subscribe.create_customer(rt.transaction, rt.stripe, customer, at=acted_at, actor=who)
    return CustomerAnswer(stripe_customer_id=made)


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
    """Return an account's customer as Stripe has it now. A customer that exists only in Stripe is found and stored."""
    rt = runtime()
    account = parse_attribution(attribution_id).attribution_id
    who = parse_actor(actor)
    acted_at = rt.effective_instant(at, who)
    found = customers.get_customer(rt.transaction, rt.stripe, account, at=acted_at, actor=who)
    return CustomerInformation(
        stripe_customer_id=found.customer_id,
        deleted=found.deleted,
        currency=found.preferred_currency,
        tax_state=found.tax_state,
        has_payment_method=found.has_payment_method,
        subscriptions=len(found.subscriptions),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionAnswer:
    """An account's open subscription in Stripe."""

    stripe_subscription_id: str


@task(name="billing.create_stripe_subscription", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def create_stripe_subscription(
    attribution_id: Attribution,
    actor: ActorText,
    spending_limit: Credits | None = None,
    hold_payment_intent_id: IntentId | None = None,
    at: Moment | None = None,
) -> SubscriptionAnswer:
    """Subscribe an account's customer to our metered price, or return its open subscription; it is on stripe then.

    With a confirmed hold its card becomes the customer's default first, and the hold is released.
    """
    rt = runtime()
    account, who = parse_attribution(attribution_id), parse_actor(actor)
    if hold_payment_intent_id is not None:
        holds.use_hold(
            rt.transaction,
            rt.stripe,
            account.attribution_id,
            PaymentIntentId(hold_payment_intent_id),
            at=rt.effective_instant(at, who),
            actor=who,
        )
    made = subscribe.create_subscription(
        rt.transaction,
        rt.stripe,
        account,
        price_by_currency=_price_by_currency(rt, account.kind),
        spending_limit=spending_limit,
        limits=rt.spending_limits,
        actor=who,
    )
    return SubscriptionAnswer(stripe_subscription_id=made)


@task(name="billing.update_customer_subscriptions_tax_state", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def update_customer_subscriptions_tax_state(
    attribution_id: Attribution, actor: ActorText, at: Moment | None = None
) -> TaxUpdate:
    """Switch tax on for an account's subscriptions if Stripe can locate the customer, and off if it cannot."""
    rt = runtime()
    account = parse_attribution(attribution_id).attribution_id
    who = parse_actor(actor)
    acted_at = rt.effective_instant(at, who)
    return customers.update_tax_state(rt.transaction, rt.stripe, account, at=acted_at, actor=who)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceAnswer:
    """The price of a credit; `unit_amount` in minor units of the currency, as text, null for a tiered price."""

    price_id: str
    currency: str
    unit_amount: str | None
    human_readable_description: str


@task(name="billing.get_price_information", time_limit=timedelta(minutes=1), needs=Role.MEMBER)
def get_price_information(
    attribution_id: Attribution,
    actor: ActorText,  # noqa: ARG001 - judged before the task runs
    currency: CurrencyCode | None = None,
) -> PriceAnswer:
    """Return an account's price of a credit in its customer's currency, or without a customer in `currency`."""
    rt = runtime()
    account = parse_attribution(attribution_id)
    found = customers.get_price_information(
        rt.transaction,
        rt.stripe,
        account.attribution_id,
        price_by_currency=_price_by_currency(rt, account.kind),
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


def _price_by_currency(rt: Runtime, kind: AccountKind) -> dict[str, str]:
    """Return the configured prices of a kind of account, by currency."""
    return dict(rt.settings.stripe_prices.by_currency("team" if kind is AccountKind.TEAM else "individual"))


def _check_currency(rt: Runtime, kind: AccountKind, currency: str) -> None:
    """Refuse a currency that no price is configured for; euros and dollars may get theirs later."""
    allowed = sorted({*CURRENCIES, *_price_by_currency(rt, kind)})
    if currency not in allowed:
        raise InvalidInputError("currency", currency, f"a currency with a configured price: {', '.join(allowed)}")

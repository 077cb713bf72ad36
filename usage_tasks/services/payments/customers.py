"""The payer of an account in Stripe: the customer, its tax state, its price, its next invoice."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.currencies import find_currency
from usage_tasks.domain.customers import CUSTOMER_NEEDED, PriceInformation, StripeCustomer
from usage_tasks.domain.errors import InvalidInputError, PermanentError, show
from usage_tasks.domain.payments import StripeSubscriptionId, billed_credits
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import customers
from usage_tasks.stripe_gateway.protocol import StripeGateway


def get_customer(
    transaction: Transaction, stripe: StripeGateway, account: AttributionId, *, at: datetime, actor: Actor
) -> StripeCustomer:
    """Return an account's customer as Stripe has it now: by the id that is stored, else by a search, which stores it.

    Raises InvalidInputError if neither knows one.
    """
    with transaction() as connection:
        row = customers.find_customer(connection, account)
    if row is not None and row.customer_id is not None:
        return stripe.get_customer(row.customer_id)
    found = search_customer(stripe, account)
    if found is None:
        raise InvalidInputError("attribution_id", account, CUSTOMER_NEEDED)
    adopt_customer(transaction, found, account, at=at, actor=actor)
    return found


def search_customer(stripe: StripeGateway, account: AttributionId) -> StripeCustomer | None:
    """Find an account's customer by its metadata in Stripe, if it was never stored here. Stripe's search lags behind.

    Raises PermanentError if there are several: a person must decide which of them pays.
    """
    return only_one([one for one in stripe.search_customers(account) if one.attribution_id == account], account)


def only_one(found: Sequence[StripeCustomer], account: AttributionId) -> StripeCustomer | None:
    """Return an account's live customer; PermanentError if there are several."""
    live = [one for one in found if not one.deleted]
    if len(live) > 1:
        names = ", ".join(one.customer_id for one in live)
        raise PermanentError(f"customers of {account}: must be at most one in Stripe (got {names})")
    return live[0] if live else None


def adopt_customer(
    transaction: Transaction, found: StripeCustomer, account: AttributionId, *, at: datetime, actor: Actor
) -> None:
    """Store a customer that was found in Stripe."""
    if find_currency(found.preferred_currency or "") is None:
        allowed = "must be a currency of Stripe, in the customer's metadata"
        raise PermanentError(
            f"customer {found.customer_id}: `currency`: {allowed} (got {show(found.preferred_currency)})"
        )
    with transaction() as connection:
        if customers.adopt_customer(connection, account, found):
            audit.append_audit(
                connection,
                at=at,
                actor=actor,
                action="stripe_customer.adopt",
                attribution_id=account,
                details={"stripe_customer_id": found.customer_id, "currency": found.preferred_currency},
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxUpdate:
    """Whether an account's subscriptions include tax now, the reason, and how many of them were changed."""

    tax_state: str | None
    automatic_tax: bool
    updated: int


def update_tax_state(
    transaction: Transaction, stripe: StripeGateway, account: AttributionId, *, at: datetime, actor: Actor
) -> TaxUpdate:
    """Switch tax on for an account's subscriptions if Stripe can locate the customer, and off if it cannot."""
    customer = get_customer(transaction, stripe, account, at=at, actor=actor)
    wanted = customer.automatic_tax
    different = [one.subscription_id for one in customer.subscriptions if one.automatic_tax is not wanted]
    if different:
        _audit_tax(transaction, account, different, automatic_tax=wanted, at=at, actor=actor)
    for subscription_id in different:
        stripe.set_automatic_tax(subscription_id, enabled=wanted)
    return TaxUpdate(tax_state=customer.tax_state, automatic_tax=wanted, updated=len(different))


def _audit_tax(
    transaction: Transaction,
    account: AttributionId,
    subscriptions: list[StripeSubscriptionId],
    *,
    automatic_tax: bool,
    at: datetime,
    actor: Actor,
) -> None:
    """Write the audit row before the calls: a call without an audit row would be worse than a row without a call."""
    with transaction() as connection:
        audit.append_audit(
            connection,
            at=at,
            actor=actor,
            action="stripe_subscription.automatic_tax",
            attribution_id=account,
            details={"stripe_subscription_ids": subscriptions, "automatic_tax": automatic_tax},
        )


def get_price_information(
    transaction: Transaction,
    stripe: StripeGateway,
    account: AttributionId,
    *,
    price_by_currency: dict[str, str],
    currency: str | None,
) -> PriceInformation:
    """Return the price an account pays, or would pay: in its customer's currency, else in the one asked for.

    Raises InvalidInputError for a currency without a configured price, or without any currency to go by.
    """
    with transaction() as connection:
        customer = customers.find_customer(connection, account)
    wanted = currency if customer is None else customer.currency
    priced = ", ".join(sorted(price_by_currency)) or "none"
    if wanted is None or wanted not in price_by_currency:
        raise InvalidInputError("currency", wanted, f"a currency with a configured price: {priced}")
    price = stripe.get_price(price_by_currency[wanted])
    if price.currency != wanted:
        raise PermanentError(f"price {price.price_id}: is in {price.currency!r} at Stripe, and configured for {wanted}")
    return price


@dataclass(frozen=True, slots=True, kw_only=True)
class NextInvoice:
    """The amount of an account's next invoice by the present count of Stripe's meter; `total` in currency cents."""

    currency: str
    total: int
    credits: Decimal
    period_start: datetime
    period_end: datetime


def preview_invoice(
    transaction: Transaction, stripe: StripeGateway, account: AttributionId, *, our_prices: frozenset[str]
) -> NextInvoice:
    """Ask Stripe what an account's next invoice comes to.

    Raises InvalidInputError for an account without an open subscription.
    """
    with transaction() as connection:
        customer = customers.find_customer(connection, account)
        subscription = customers.find_open_subscription(connection, account)
        ours = our_prices | customers.list_prices(connection, account)
    if customer is None or customer.customer_id is None or subscription is None or subscription.subscription_id is None:
        raise InvalidInputError("attribution_id", account, "an account with an open subscription")
    preview = stripe.preview_invoice(customer.customer_id, subscription_id=subscription.subscription_id)
    return NextInvoice(
        currency=preview.currency,
        total=preview.total,
        credits=billed_credits(preview.lines, ours),
        period_start=preview.period_start,
        period_end=preview.period_end,
    )

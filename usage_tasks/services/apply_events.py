"""Reflect Stripe's events in the ledger: what has arrived, once, by asking Stripe for the object as it is now."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.errors import (
    InvalidInputError,
    InvariantError,
    PermanentError,
    RetryableError,
    StaleVersionError,
)
from usage_tasks.domain.ledger import EntryKind, invoice_key
from usage_tasks.domain.payments import Invoice, StripeInvoiceId, invoiced_cents
from usage_tasks.services.reset import reset_account
from usage_tasks.services.sync import Transaction, backoff, report_closing_quantity, report_quantities, settle_period
from usage_tasks.storage import cost_centers, entries, inbox, stripe_accounts
from usage_tasks.storage.inbox import InboxEvent
from usage_tasks.stripe_gateway.protocol import StripeGateway

CLAIM_LIMIT: Final = 4
LEASE: Final = timedelta(seconds=90)
"""Longer than CLAIM_LIMIT events, each two calls that run into their time-outs (10 s)."""

_ACTOR: Final = Actor("service:stripe.apply_events")
_FINAL_STATUSES: Final = frozenset({"open", "paid", "uncollectible", "void"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """How a run of applying ended; `reports` counts the meter reports it gave rise to."""

    applied: int
    retried: int
    parked: int
    reports: int


def parse_event(event_id: str, payload: str) -> InboxEvent:
    """Read what matters of an event's JSON; raise InvalidInputError where it is no event of that id."""
    try:
        event = json.loads(payload)
        stated_id, kind, object_id = event["id"], event["type"], event["data"]["object"].get("id")
        created_at = datetime.fromtimestamp(int(event["created"]), tz=UTC)
        if not _is_word(kind) or not (object_id is None or _is_word(object_id)):
            raise ValueError("type or id")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
        raise InvalidInputError("payload", f"{len(payload)} characters", "a Stripe event in JSON") from error
    if stated_id != event_id:
        raise InvalidInputError("event_id", event_id, "the id that stands in the payload")
    return InboxEvent(event_id=event_id, type=kind, object_id=object_id, created_at=created_at)


def _is_word(value: object) -> bool:
    """Tell whether a value is text that a database can hold and a log can show."""
    return isinstance(value, str) and value != "" and value.isprintable()


def apply_events(
    transaction: Transaction, stripe: StripeGateway, *, our_prices: frozenset[str], at: datetime, limit: int
) -> Applied:
    """Apply up to about `limit` events that are due; one that fails is tried later or parked, the others go on."""
    applied = retried = parked = reports = 0
    while applied + retried + parked < limit:
        with transaction() as connection:
            claimed = inbox.claim_events(connection, limit=CLAIM_LIMIT, lease=LEASE)
        if not claimed:
            break
        for event in claimed:
            try:
                reports += _apply(transaction, stripe, event, our_prices=our_prices, at=at)
                applied += 1
            except (RetryableError, StaleVersionError) as error:
                retried += 1
                with transaction() as connection:
                    inbox.mark_retry(connection, event.event_id, after=backoff(event.attempts), reason=str(error))
            except (PermanentError, InvariantError) as error:
                parked += 1
                with transaction() as connection:
                    inbox.mark_parked(connection, event.event_id, reason=str(error))
    return Applied(applied=applied, retried=retried, parked=parked, reports=reports)


def _apply(
    transaction: Transaction,
    stripe: StripeGateway,
    event: InboxEvent,
    *,
    our_prices: frozenset[str],
    at: datetime,
) -> int:
    """Apply one event; return how many meter reports it gave rise to."""
    if event.type not in {"invoice.created", "invoice.finalized"} or event.object_id is None:
        with transaction() as connection:
            inbox.mark_applied(connection, event.event_id, outcome="no effect")
        return 0
    invoice = stripe.get_invoice(StripeInvoiceId(event.object_id))
    with transaction() as connection:
        account = stripe_accounts.find_account(connection, invoice.customer_id)
        if account is None:
            reports, outcome = 0, "not a customer of ours"
        elif invoice.subscription_id is None:
            reports, outcome = 0, "not of a subscription"
        elif invoice.finalized_at is None:
            reports = report_closing_quantity(connection, account, period_end=invoice.period_end)
            outcome = "closing quantity reported"
        else:
            reports, outcome = _book_invoice(connection, account, invoice, our_prices=our_prices, at=at)
        inbox.mark_applied(connection, event.event_id, outcome=outcome)
    return reports


def _book_invoice(
    connection: Connection, account: AttributionId, invoice: Invoice, *, our_prices: frozenset[str], at: datetime
) -> tuple[int, str]:
    """Enter a finalized invoice, advance its account's cycle past it, and report the quantity that is left."""
    if invoice.finalized_at is None or invoice.status not in _FINAL_STATUSES:
        raise PermanentError(f"invoice {invoice.invoice_id}: status {invoice.status!r} is not final")
    current = settle_period(connection, account, period_end=invoice.period_end, told=True)
    # A price that is configured no more is still ours where we made a subscription with it.
    ours = our_prices | stripe_accounts.list_prices(connection, account)
    booked = entries.append_entries(connection, [_invoice_entry(account, invoice, invoiced_cents(invoice, ours))])
    if not booked:
        return 0, "invoice was booked before"
    # The first invoice may be told before the switch to stripe is stored, which opens the account and sets its cycle.
    if current is not None and current.billing_strategy is BillingStrategy.STRIPE:
        _advance_cycle(connection, current, invoice)
    now = max(at, invoice.finalized_at)
    if current is not None:
        reset_account(connection, account, at=now, actor=_ACTOR)
    return report_quantities(connection, at=now, only=account), "invoice booked"


def _invoice_entry(account: AttributionId, invoice: Invoice, cents: int) -> entries.Entry:
    return entries.Entry(
        attribution_id=account,
        key=invoice_key(invoice.invoice_id),
        kind=EntryKind.INVOICE,
        credit_cents=-cents,
        effective_at=invoice.finalized_at or invoice.period_end,
        description=f"Invoice {invoice.invoice_id} finalized in Stripe",
    )


def _advance_cycle(connection: Connection, current: CostCenter, invoice: Invoice) -> None:
    """Advance past an invoice's period; raise RetryableError while the period before it has no invoice booked.

    What a period was told stays out of later reports until its invoice is booked, so none may be passed over.
    """
    cycle = current.cycle
    if cycle.following().ends_at <= invoice.period_end:
        raise RetryableError(
            f"invoice {invoice.invoice_id}: the one of {current.attribution_id} for the period that ended at "
            f"{cycle.ends_at.isoformat()} is not booked yet"
        )
    if cycle.ends_at <= invoice.period_end:
        advanced = replace(current, version=current.version + 1, cycle=cycle.following())
        cost_centers.append_versions(connection, [advanced], actor=_ACTOR)

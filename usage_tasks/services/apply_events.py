"""Reflect Stripe's events in the ledger: what has arrived, once, by asking Stripe for the object as it is now."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.errors import InvalidInputError, PermanentError, RetryableError
from usage_tasks.domain.ledger import EntryKind, invoice_key
from usage_tasks.domain.payments import Invoice, StripeInvoiceId, invoiced_cents
from usage_tasks.services.sync import Transaction, backoff, report_closing_quantity, report_quantities
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
        if event["id"] != event_id:
            raise InvalidInputError("event_id", event_id, "the id that stands in the payload")
        subject = event["data"]["object"]
        return InboxEvent(
            event_id=event_id,
            type=str(event["type"]),
            object_id=subject.get("id"),
            created_at=datetime.fromtimestamp(int(event["created"]), tz=UTC),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError("payload", f"{len(payload)} characters", "a Stripe event in JSON") from error


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
            except RetryableError as error:
                retried += 1
                with transaction() as connection:
                    inbox.mark_retry(connection, event.event_id, after=backoff(event.attempts), reason=str(error))
            except PermanentError as error:
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
    cents = invoiced_cents(invoice, our_prices)
    booked = entries.append_entries(
        connection,
        [
            entries.Entry(
                attribution_id=account,
                key=invoice_key(invoice.invoice_id),
                kind=EntryKind.INVOICE,
                credit_cents=-cents,
                effective_at=invoice.finalized_at,
                description=f"Invoice {invoice.invoice_id} finalized in Stripe",
            )
        ],
    )
    if not booked:
        return 0, "invoice was booked before"
    _advance_cycle(connection, account, past=invoice.period_end)
    return report_quantities(connection, at=max(at, invoice.finalized_at), only=account), "invoice booked"


def _advance_cycle(connection: Connection, account: AttributionId, *, past: datetime) -> None:
    current = cost_centers.lock_current(connection, account)
    cycle = current.cycle
    while current.billing_strategy is BillingStrategy.STRIPE and cycle.ends_at <= past:
        cycle = cycle.following()
    if cycle != current.cycle:
        advanced = replace(current, version=current.version + 1, cycle=cycle)
        cost_centers.append_versions(connection, [advanced], actor=_ACTOR)

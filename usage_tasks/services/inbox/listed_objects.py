"""Changes in Stripe's lists of objects that no event has brought: read a page of each, and make the missing events.

An object that may have changed in the gap can be older than the gap: lists are read from some time before it on, and
unsettled objects are read at any age. Too many events do no harm: applied to an unchanged object, an event
changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeAlias

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.customers import StripeCustomer
from usage_tasks.domain.events import EventNotice
from usage_tasks.domain.payments import InvoiceStatus, ListedInvoice, StripeInvoiceId
from usage_tasks.domain.stripe_objects import ListedObject, ObjectPage
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.inbox.list_progress import Span
from usage_tasks.storage.payments import customers, disputes, invoices, subscriptions
from usage_tasks.storage.payments.customers import CustomerRow
from usage_tasks.stripe_gateway.protocol import StripeGateway

PAGE: Final = 100
CUSTOMERS_PAGE: Final = 10
OLDER: Final = timedelta(days=180)
"""So long before the gap an object may have been made that changed in it: longer than a dispute lasts, or than Stripe
tries to collect an invoice."""

OPEN_DISPUTES_MAX: Final = 10_000

_EVENT_OF: Final[Mapping[str, str]] = {
    "draft": "invoice.created",
    "open": "invoice.finalized",
    "paid": "invoice.paid",
    "void": "invoice.voided",
    "uncollectible": "invoice.marked_uncollectible",
}
_UNPAID: Final = frozenset({InvoiceStatus.OPEN.value, InvoiceStatus.UNCOLLECTIBLE.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of a list: its number of objects, the events for objects that differ, and where the next page begins."""

    looked_at: int
    notices: Sequence[EventNotice]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The parameters of a page: the span, the object after which it begins (None: the first page), the instant."""

    transaction: Transaction
    stripe: StripeGateway
    span: Span
    cursor: str | None
    at: datetime


Lister: TypeAlias = Callable[[Look], Found]
"""Reads a page of a list; no transaction is open during a call."""


def _notice(span: Span, kind: str, object_id: str, created_at: datetime) -> EventNotice:
    """An event of our own for an object: one a span, however often it is found."""
    event_id = f"missed_{object_id}_{int(span.until.timestamp())}"
    return EventNotice(event_id=event_id, type=kind, object_id=object_id, created_at=created_at)


def _list_invoices(look: Look) -> Found:
    span = look.span
    page = look.stripe.list_invoices(
        created_from=span.since - OLDER,
        created_until=span.until,
        after=None if look.cursor is None else StripeInvoiceId(look.cursor),
        limit=PAGE,
    )
    with look.transaction() as connection:
        asked = {each.subscription_id for each in page.invoices if each.subscription_id is not None}
        ours = subscriptions.list_ours(connection, sorted(asked))
        mine = [each for each in page.invoices if each.subscription_id in ours]
        ids = [each.invoice_id for each in mine]
        known, failed = invoices.list_known(connection, ids), invoices.list_failed(connection, ids)
    notices = []
    for each in mine:
        if _has_failed(each, span) and each.invoice_id not in failed:
            failed_at = max(each.finalized_at or span.since, span.since)
            notices.append(_notice(span, "invoice.payment_failed", each.invoice_id, failed_at))
        elif known.get(each.invoice_id) != each.status:
            kind = _EVENT_OF.get(each.status, _EVENT_OF["draft"])
            notices.append(_notice(span, kind, each.invoice_id, each.created_at))
    cursor = page.invoices[-1].invoice_id if page.more and page.invoices else None
    return Found(looked_at=len(page.invoices), notices=notices, cursor=cursor)


def _has_failed(listed: ListedInvoice, span: Span) -> bool:
    """Return True if paying an invoice failed in the span or before it.

    Unpaid after an attempt alone may mean that the attempt is still under way. None takes as long as Stripe keeps
    events: of an invoice that was final before they begin, it has failed.
    """
    attempted = listed.attempts > 0 and listed.status in _UNPAID
    return attempted and listed.finalized_at is not None and listed.finalized_at < span.until


def _list_objects(
    list_page: Callable[[StripeGateway], Callable[..., ObjectPage]], kinds: Mapping[str, str], look: Look
) -> Found:
    """Read a page of disputes, refunds or credit notes; `kinds` has the event by status, "" for any other."""
    page = list_page(look.stripe)(created_from=look.span.since - OLDER, after=look.cursor, limit=PAGE)
    with look.transaction() as connection:
        mine = _ours(connection, page.objects)
        known = disputes.list_statuses(connection, [each.object_id for each in mine])
        notices = [
            _notice(look.span, kinds.get(each.status, kinds[""]), each.object_id, each.created_at)
            for each in mine
            if known.get(each.object_id) != each.status
        ]
    return Found(looked_at=len(page.objects), notices=notices, cursor=page.cursor)


def _ours(connection: Connection, objects: Sequence[ListedObject]) -> Sequence[ListedObject]:
    payers = {each.customer_id for each in objects if each.customer_id is not None}
    ours = customers.list_ours(connection, sorted(payers))
    return [each for each in objects if each.customer_id in ours]


def _list_disputes(look: Look) -> Found:
    kinds = {"": "charge.dispute.updated"}
    found = _list_objects(lambda stripe: stripe.list_disputes, kinds, look)
    if look.cursor is not None:
        return found
    with look.transaction() as connection:
        unsettled = disputes.list_open_disputes(connection, limit=OPEN_DISPUTES_MAX)
    old = [
        _notice(look.span, kinds[""], each.dispute_id, each.created_at)
        for each in unsettled
        if each.created_at < look.span.since - OLDER
    ]
    return Found(looked_at=found.looked_at + len(old), notices=[*found.notices, *old], cursor=found.cursor)


def _list_customers(look: Look) -> Found:
    """Ask for each customer of ours: a deleted one stands in no list."""
    with look.transaction() as connection:
        rows = customers.list_customers(connection, after=look.cursor or "", limit=CUSTOMERS_PAGE)
    fetched = [(row, each) for row in rows for each in _fetch(look.stripe, row)]
    with look.transaction() as connection:
        notices = [notice for row, each in fetched for notice in _notices_of(connection, look, row, each)]
    return Found(
        looked_at=len(rows),
        notices=notices,
        cursor=rows[-1].attribution_id if len(rows) == CUSTOMERS_PAGE else None,
    )


def _fetch(stripe: StripeGateway, row: CustomerRow) -> Sequence[StripeCustomer]:
    if row.customer_id is not None:
        return [stripe.get_customer(row.customer_id)]
    return stripe.search_customers(row.attribution_id)  # what Stripe answered was never stored


def _notices_of(connection: Connection, look: Look, row: CustomerRow, found: StripeCustomer) -> Sequence[EventNotice]:
    """The events of a customer that was deleted, of its subscriptions that began or ended, and of where it is taxed."""
    notice = partial(_notice, look.span, created_at=look.at)
    if row.customer_id is None:
        return [notice("customer.created", found.customer_id)]
    if found.deleted:
        return [notice("customer.deleted", found.customer_id)]
    held = [each.subscription_id for each in found.subscriptions]
    known = subscriptions.list_ours(connection, held)
    notices = [notice("customer.subscription.created", each) for each in held if each not in known]
    ours = subscriptions.find_open(connection, AttributionId(row.attribution_id))
    if ours is not None and ours.subscription_id not in held:
        notices.append(notice("customer.subscription.deleted", ours.subscription_id))
    if any(each.automatic_tax != found.automatic_tax for each in found.subscriptions):
        notices.append(notice("customer.updated", found.customer_id))
    return notices


LISTS: Final[Mapping[str, Lister]] = {
    "missed invoices": _list_invoices,
    "missed credit notes": partial(
        _list_objects,
        lambda stripe: stripe.list_credit_notes,
        {"": "credit_note.created", "void": "credit_note.voided"},
    ),
    "missed refunds": partial(_list_objects, lambda stripe: stripe.list_refunds, {"": "refund.updated"}),
    "missed disputes": _list_disputes,
    "missed customers": _list_customers,
}

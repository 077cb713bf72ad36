"""Find the invoices of ours whose events never came, and reflect them as the events would have.

The walk lists what Stripe has made since the last whole walk, with an overlap, and fetches what stands differently from
what is stored. A second look fetches again all objects that may still change: drafts, open invoices, invoices given up,
and open subscriptions (usage after an unnoticed end would be billed to nobody). A failure delays nothing else,
and the next walk begins no later than it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from usage_tasks.domain.errors import InvariantError, PermanentError, RetryableError, StaleEpochError, StaleVersionError
from usage_tasks.domain.payments import ListedInvoice, StripeInvoiceId, StripeSubscriptionId
from usage_tasks.services.payments.context import StripeContext, Write
from usage_tasks.services.payments.reflect_invoice import reflect_invoice
from usage_tasks.services.payments.reflect_subscription import look_at_subscription, reflect_subscription
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.inbox import list_progress
from usage_tasks.storage.inbox.list_progress import Walk
from usage_tasks.storage.payments import invoices, subscriptions
from usage_tasks.storage.plans import SAMPLE_MAX, Plan

WALK: Final = "invoices"
PAGE: Final = 100
PAGES_MAX: Final = 10
FETCHES_MAX: Final = 300
OVERLAP: Final = timedelta(days=4)
"""Longer than a draft may be held back (72 h)."""

RECHECK_LIMIT: Final = 100
RECHECK: Final = timedelta(hours=6)
RECHECK_GIVEN_UP: Final = timedelta(days=7)
RECHECK_SUBSCRIPTION: Final = timedelta(days=1)

_UNANSWERED_MAX: Final = 3
"""So many calls without an answer, one after the other, mean that Stripe is away: the next run goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """The result of a run: invoices fetched and booked, invoices postponed, and invoices that failed, with the reason.

    `finished`: the walk came to its end; `goes_on`: another run would get further. `unanswered`: the number of calls
    in a row without an answer.
    """

    fetched: int = 0
    entries: int = 0
    invoiced_cents: int = 0
    reports: int = 0
    retried: int = 0
    failed: Sequence[tuple[str, str]] = ()
    finished: bool = True
    goes_on: bool = False
    unanswered: int = 0

    @property
    def stopped(self) -> bool:
        """Stripe is away."""
        return self.unanswered >= _UNANSWERED_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    candidates: Sequence[ListedInvoice]
    until: datetime
    cursor: str | None


def reconcile_invoices(context: StripeContext, *, pages: int = PAGES_MAX, recheck: int = RECHECK_LIMIT) -> Reconciled:
    """Walk up to so many pages of Stripe's list, look at up to so many known invoices again; reflect what differs."""
    with context.transaction() as connection:
        held = list_progress.get_walk(connection, WALK)
    listed = _list_candidates(context, held, pages=pages)
    done, left = Reconciled(), list(listed.candidates)
    failed_since = held.failed_since
    for _ in range(FETCHES_MAX):
        if not left or done.stopped:
            break
        candidate = left.pop(0)
        before = (done.retried, len(done.failed))
        done = _reflect(context, candidate.invoice_id, done)
        if (done.retried, len(done.failed)) != before:
            failed_since = min(failed_since or candidate.created_at, candidate.created_at)
    if left:  # in the order of their creation: the first is the oldest
        failed_since = min(failed_since or left[0].created_at, left[0].created_at)
    with context.transaction() as connection:
        list_progress.put_walk(connection, WALK, _moved(held, listed, failed_since), expected=held)
    if not done.stopped:
        with context.transaction() as connection:
            unsettled = invoices.list_unsettled(
                connection, limit=recheck, recheck=RECHECK, recheck_given_up=RECHECK_GIVEN_UP
            )
        for invoice_id in unsettled:
            done = done if done.stopped else _reflect(context, invoice_id, done)
        with context.transaction() as connection:
            open_ones = subscriptions.list_unchecked(connection, limit=recheck, recheck=RECHECK_SUBSCRIPTION)
        for subscription_id in open_ones:
            done = done if done.stopped else _check_subscription(context, subscription_id, done)
    finished = listed.cursor is None and not left
    further = not done.stopped and (listed.cursor is not None or done.fetched > 0)
    return replace(done, finished=finished, goes_on=not finished and further)


def plan_reconciliation(context: StripeContext, *, pages: int = PAGES_MAX) -> Plan:
    """Return what a complete new walk would book, by executing it and rolling back. Failures are in the sample."""
    with context.transaction() as connection:
        held = list_progress.get_walk(connection, WALK)
    fresh = Walk(since=held.since, until=None, cursor=None, failed_since=None)
    listed = _list_candidates(context, fresh, pages=pages)
    fetched = [context.stripe.get_invoice(candidate.invoice_id) for candidate in listed.candidates]
    rows = cents = 0
    sample: list[dict[str, object]] = []
    with context.transaction() as connection, rehearsal(connection):
        for invoice in fetched:
            row: dict[str, object] = {"stripe_invoice_id": invoice.invoice_id, "status": invoice.status.value}
            try:
                with connection.begin_nested():
                    effect = reflect_invoice(connection, invoice, terms=context.terms, at=context.at)
            except (PermanentError, InvariantError, RetryableError) as error:
                row["error"] = str(error)
            else:
                rows, cents = rows + effect.entries, cents - effect.invoiced_cents
                row |= {"entries": effect.entries, "invoiced_cents": effect.invoiced_cents}
            sample.append(row)
    return Plan(rows=rows, credit_cents=cents, sample=sample[:SAMPLE_MAX])


def _list_candidates(context: StripeContext, held: Walk, *, pages: int) -> _Listed:
    """List invoices of ours that stand differently from what is stored, oldest first."""
    until, cursor = held.until or context.at, held.cursor
    shown: datetime | None = None
    candidates: list[ListedInvoice] = []
    for _ in range(pages):
        try:
            page = context.stripe.list_invoices(
                created_from=held.since,
                created_until=until,
                after=None if cursor is None else StripeInvoiceId(cursor),
                limit=PAGE,
            )
        except PermanentError:
            # The last invoice of the previous page may be gone: the next run starts a new walk.
            with context.transaction() as connection:
                list_progress.put_walk(connection, WALK, replace(held, until=None, cursor=None), expected=held)
            raise
        shown = shown or page.listed_at
        candidates += _differing(context, page.invoices)
        cursor = page.invoices[-1].invoice_id if page.more else None
        if cursor is None:
            break
    # By a clock of ours that is ahead of Stripe's, the next walk might begin after invoices that are not made yet.
    return _Listed(candidates=sorted(candidates, key=_age), until=min(until, shown or until), cursor=cursor)


def _age(listed: ListedInvoice) -> tuple[datetime, str]:
    return listed.created_at, listed.invoice_id


def _differing(context: StripeContext, page: Sequence[ListedInvoice]) -> Sequence[ListedInvoice]:
    with context.transaction() as connection:
        asked = {listed.subscription_id for listed in page if listed.subscription_id is not None}
        ours = subscriptions.list_ours(connection, sorted(asked))
        mine = [listed for listed in page if listed.subscription_id in ours]
        known = invoices.list_known(connection, [listed.invoice_id for listed in mine])
    return [listed for listed in mine if known.get(listed.invoice_id) != listed.status]


def _moved(held: Walk, listed: _Listed, failed_since: datetime | None) -> Walk:
    if listed.cursor is not None:
        return Walk(since=held.since, until=listed.until, cursor=listed.cursor, failed_since=failed_since)
    since = listed.until - OVERLAP
    if failed_since is not None:
        since = min(since, failed_since)
    return Walk(since=since, until=None, cursor=None, failed_since=None)


def _reflect(context: StripeContext, invoice_id: StripeInvoiceId, done: Reconciled) -> Reconciled:
    try:
        invoice = context.stripe.get_invoice(invoice_id)
    except (RetryableError, PermanentError) as error:
        return _unfetched(done, invoice_id, error)
    reflected = partial(reflect_invoice, invoice=invoice, terms=context.terms, at=context.at)
    return _written(context, invoice_id, reflected, done)


def _check_subscription(context: StripeContext, subscription_id: StripeSubscriptionId, done: Reconciled) -> Reconciled:
    try:
        look = look_at_subscription(context.stripe, subscription_id)
    except (RetryableError, PermanentError) as error:
        return _unfetched(done, subscription_id, error)
    reflected = partial(reflect_subscription, look=look, terms=context.terms, at=context.at)
    return _written(context, subscription_id, reflected, done)


def _unfetched(done: Reconciled, what: str, error: RetryableError | PermanentError) -> Reconciled:
    if isinstance(error, RetryableError):
        return replace(done, retried=done.retried + 1, unanswered=done.unanswered + 1)
    return replace(done, failed=[*done.failed, (what, str(error))], unanswered=0)


def _written(context: StripeContext, what: str, write: Write, done: Reconciled) -> Reconciled:
    """Write what follows from what was fetched, alone in a transaction, and count it."""
    try:
        with context.transaction() as connection:
            effect = write(connection)
    except StaleEpochError:
        raise  # another run does the work
    except (RetryableError, StaleVersionError):
        return replace(done, retried=done.retried + 1, unanswered=0)
    except (PermanentError, InvariantError) as error:
        return replace(done, failed=[*done.failed, (what, str(error))], unanswered=0)
    return replace(
        done,
        fetched=done.fetched + 1,
        entries=done.entries + effect.entries,
        invoiced_cents=done.invoiced_cents + effect.invoiced_cents,
        reports=done.reports + effect.reports,
        unanswered=0,
    )

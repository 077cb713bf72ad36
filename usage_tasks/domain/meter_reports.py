"""Meter reports: the absolute quantity, in whole credits, that Stripe bills an account for a period.

Production decides the reports of all accounts in one statement, storage/metering/decide.py. The functions here are
its oracle, which production never calls: they state the rule for one account, and tests/metering/test_decide_twin.py
holds the two equal.
Source: docs/adr/0005-stripe-usage.md, docs/adr/0016-sync.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.credits import CENTS_PER_CREDIT, CreditCents, billable_quantity
from usage_tasks.domain.cycles import Cycle

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)


class MeterReportState(StrEnum):
    """The state of a report: to be sent, taken by Stripe, refused for good, or not to be sent any more."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    PARKED = "parked"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReport:
    """A report that is stored. `as_of` is in whole seconds; `claimed`: a worker may be sending it.

    `early`: it waits until Stripe's clock, which is behind ours, has come near enough to `as_of`.
    """

    as_of: datetime
    quantity: int
    state: MeterReportState
    period_starts_at: datetime | None
    claimed: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredAccount:
    """The facts that decide about an account's report as of an instant `at`.

    `cycle` is the first cycle whose invoice is not booked; the balance is that of `at`. `subscribed`: a subscription is
    open that Stripe has made, and `stripe_ended_at` is the end that Stripe gave it, if any. `latest_invoice_at` is the
    latest effective time of an invoice in the ledger.
    """

    attribution_id: AttributionId
    billing_strategy: BillingStrategy
    cycle: Cycle
    balance_cents: CreditCents
    reports: Sequence[MeterReport]
    subscribed: bool = True
    stripe_ended_at: datetime | None = None
    customer_parked: bool = False
    latest_invoice_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """The quantities of the period that holds an instant: by the ledger, and as last reported."""

    ledger: int
    reported: int
    period_starts_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReport:
    """A report to be added, under the identifier that makes a repeated call one event at Stripe."""

    identifier: str
    as_of: datetime
    quantity: int
    period_starts_at: datetime


def unbooked_periods(cycle: Cycle, *, as_of: datetime) -> list[Cycle]:
    """List the billing cycles of an account from a cycle to the one at `as_of`; none if `as_of` is before it."""
    periods = []
    while cycle.started_at <= as_of:
        periods.append(cycle)
        cycle = cycle.following()
    return periods


def last_reported(period: Cycle, reports: Sequence[MeterReport], *, as_of: datetime) -> int:
    """Return the quantity of a period's last report up to `as_of`; 0 if it has none. Dropped ones never counted."""
    known = [
        (report.as_of, report.quantity)
        for report in reports
        if report.state is not MeterReportState.DROPPED
        and period.started_at <= report.as_of < period.ends_at
        and report.as_of <= as_of
    ]
    return max(known)[1] if known else 0


def awaiting_invoice_cents(cycle: Cycle, reports: Sequence[MeterReport], *, at: datetime) -> CreditCents:
    """Return the credit cents that were reported for periods that have ended and whose invoice is not booked."""
    ended = (period for period in unbooked_periods(cycle, as_of=at) if period.ends_at <= at)
    return CreditCents(CENTS_PER_CREDIT * sum(last_reported(period, reports, as_of=at) for period in ended))


def judge_quantity(
    cycle: Cycle, balance_cents: CreditCents, reports: Sequence[MeterReport], *, as_of: datetime
) -> Quantity | None:
    """Return the quantity of the period that `as_of` lies in, or None before the account's cycle.

    The balance in whole credits, rounded up, less the quantities of ended periods: Stripe bills those by their own
    invoices, booked or not. Never below zero.
    """
    periods = unbooked_periods(cycle, as_of=as_of)
    if not periods:
        return None
    *ended, current = periods
    billed = sum(last_reported(period, reports, as_of=as_of) for period in ended)
    return Quantity(
        ledger=max(0, billable_quantity(balance_cents) - billed),
        reported=last_reported(current, reports, as_of=as_of),
        period_starts_at=current.started_at,
    )


def can_be_reported(account: MeteredAccount, *, at: datetime, as_of: datetime) -> bool:
    """Return True if Stripe may get a report of this account: it pays through Stripe, and nothing of it is parked.

    An invoice that took effect after `at` bills the balance of `at`, so a report of it would bill that again. Stripe
    does not count a report dated at or after its own end of the subscription.
    """
    invoiced_later = account.latest_invoice_at is not None and account.latest_invoice_at > at
    ended = account.stripe_ended_at is not None and account.stripe_ended_at <= as_of
    parked = account.customer_parked or any(each.state is MeterReportState.PARKED for each in account.reports)
    paying = account.billing_strategy is BillingStrategy.STRIPE and account.subscribed
    return paying and not (ended or parked or invoiced_later)


def decide_report(account: MeteredAccount, *, at: datetime, as_of: datetime, closing: bool) -> NewReport | None:
    """Return the report to be added for an account, or None if Stripe knows the quantity or must not get one.

    `as_of` is `at` in whole seconds, or the second before it for a `closing` report. A closing report may be older than
    others; any other report is the latest. An account has one report a second, in any state.
    """
    quantity = judge_quantity(account.cycle, account.balance_cents, account.reports, as_of=as_of)
    if quantity is None or not can_be_reported(account, at=at, as_of=as_of):
        return None
    overtaken = not closing and any(report.as_of > as_of for report in account.reports)
    taken = any(report.as_of == as_of for report in account.reports)
    if quantity.ledger == quantity.reported or overtaken or taken:
        return None
    return NewReport(
        identifier=f"{account.attribution_id}:{(as_of - _EPOCH) // _SECOND}",
        as_of=as_of,
        quantity=quantity.ledger,
        period_starts_at=quantity.period_starts_at,
    )


def is_superseded(older: MeterReport, new: NewReport, *, closing: bool = False) -> bool:
    """Return True if a stored report need not be sent any more: of one period only the last report matters.

    An early one is sent all the same: the new one is earlier still for Stripe's clock, and the one after it too, so
    that none would ever be sent. A closing report is dated in Stripe's past, and supersedes any.
    """
    return (
        older.state is MeterReportState.PENDING
        and not older.claimed
        and (closing or not older.early)
        and older.as_of < new.as_of
        and older.period_starts_at == new.period_starts_at
    )

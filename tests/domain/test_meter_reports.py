from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.factories import team
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.cycles import Cycle
from usage_tasks.domain.meter_reports import (
    MeteredAccount,
    MeterReport,
    MeterReportState,
    NewReport,
    Quantity,
    awaiting_invoice_cents,
    can_be_reported,
    decide_report,
    is_superseded,
    judge_quantity,
    last_reported,
    unbooked_periods,
)

PENDING, ACCEPTED, PARKED, DROPPED = MeterReportState
SECOND = timedelta(seconds=1)
ANCHOR = datetime(2027, 12, 31, 9, tzinfo=UTC)
JANUARY, FEBRUARY, MARCH = (datetime(2028, month, day, 9, tzinfo=UTC) for month, day in ((1, 31), (2, 29), (3, 31)))
CYCLE = Cycle(anchor_at=ANCHOR, number=0)
AT = JANUARY + 5 * SECOND


def report(as_of: datetime, quantity: int = 3, state: MeterReportState = ACCEPTED) -> MeterReport:
    return MeterReport(as_of=as_of, quantity=quantity, state=state, period_starts_at=None)


def metered(*reports: MeterReport, cents: int = 1_000) -> MeteredAccount:
    return MeteredAccount(
        attribution_id=team(),
        billing_strategy=BillingStrategy.STRIPE,
        cycle=CYCLE,
        balance_cents=CreditCents(cents),
        reports=reports,
    )


def decide(account: MeteredAccount, as_of: datetime = AT, *, closing: bool = False) -> int | None:
    new = decide_report(account, at=as_of, as_of=as_of, closing=closing)
    return None if new is None else new.quantity


@pytest.mark.parametrize(
    ("as_of", "starts"),
    [
        (ANCHOR - SECOND, []),
        (ANCHOR, [ANCHOR]),
        (JANUARY - SECOND, [ANCHOR]),
        (JANUARY, [ANCHOR, JANUARY]),
        (MARCH, [ANCHOR, JANUARY, FEBRUARY, MARCH]),
    ],
)
def test_the_unbooked_periods_end_with_the_one_of_the_instant(as_of: datetime, starts: list[datetime]) -> None:
    assert [period.started_at for period in unbooked_periods(CYCLE, as_of=as_of)] == starts


@pytest.mark.parametrize(
    ("reports", "quantity"),
    [
        ([], 0),
        ([report(ANCHOR - SECOND)], 0),
        ([report(ANCHOR)], 3),
        ([report(JANUARY - SECOND)], 3),
        ([report(JANUARY)], 0),
        ([report(ANCHOR, 9), report(ANCHOR + SECOND, 2), report(ANCHOR, 7)], 2),
        ([report(ANCHOR, 1), report(ANCHOR + SECOND, 2, DROPPED)], 1),
        ([report(ANCHOR, 1, PENDING)], 1),
        ([report(ANCHOR, 1, PARKED)], 1),
    ],
)
def test_the_last_report_of_a_period_that_was_not_dropped_holds(reports: list[MeterReport], quantity: int) -> None:
    assert last_reported(CYCLE, reports, as_of=MARCH) == quantity


def test_a_report_counts_from_its_own_instant_on() -> None:
    assert last_reported(CYCLE, [report(ANCHOR + SECOND)], as_of=ANCHOR) == 0
    assert last_reported(CYCLE, [report(ANCHOR + SECOND)], as_of=ANCHOR + SECOND) == 3


def test_ended_periods_await_their_invoices() -> None:
    reports = [report(ANCHOR, 3), report(JANUARY, 4), report(FEBRUARY, 8)]
    assert awaiting_invoice_cents(CYCLE, reports, at=JANUARY - SECOND) == 0
    assert awaiting_invoice_cents(CYCLE, reports, at=JANUARY) == 300
    assert awaiting_invoice_cents(CYCLE, reports, at=FEBRUARY) == 700
    assert awaiting_invoice_cents(CYCLE, reports, at=ANCHOR - SECOND) == 0


@pytest.mark.parametrize(
    ("cents", "ledger"), [(-1, 0), (0, 0), (100, 0), (300, 0), (301, 1), (400, 1), (401, 2), (1_000, 7)]
)
def test_the_quantity_is_the_balance_rounded_up_less_what_ended_periods_bill(cents: int, ledger: int) -> None:
    reports = [report(ANCHOR, 3), report(JANUARY, 5)]
    assert judge_quantity(CYCLE, CreditCents(cents), reports, as_of=AT) == Quantity(
        ledger=ledger, reported=5, period_starts_at=JANUARY
    )


def test_ended_periods_add_up_and_before_the_cycle_there_is_no_quantity() -> None:
    reports = [report(ANCHOR, 3), report(JANUARY, 4)]
    assert judge_quantity(CYCLE, CreditCents(1_000), reports, as_of=FEBRUARY) == Quantity(
        ledger=3, reported=0, period_starts_at=FEBRUARY
    )
    assert judge_quantity(CYCLE, CreditCents(1_000), reports, as_of=ANCHOR - SECOND) is None


def test_an_account_that_pays_through_stripe_can_be_reported() -> None:
    account = metered(report(ANCHOR, state=PENDING), report(JANUARY, state=DROPPED))
    assert can_be_reported(account, at=AT, as_of=AT)
    assert not can_be_reported(replace(account, billing_strategy=BillingStrategy.OTHER), at=AT, as_of=AT)
    assert not can_be_reported(replace(account, subscribed=False), at=AT, as_of=AT)
    assert not can_be_reported(replace(account, customer_parked=True), at=AT, as_of=AT)
    assert not can_be_reported(metered(report(ANCHOR), report(JANUARY, state=PARKED)), at=AT, as_of=AT)


def test_stripes_end_of_the_subscription_is_compared_with_the_date_of_the_report() -> None:
    ended = replace(metered(), stripe_ended_at=AT)
    assert not can_be_reported(ended, at=AT, as_of=AT)
    assert can_be_reported(ended, at=AT, as_of=AT - SECOND)


def test_an_invoice_after_the_instant_of_the_balance_bars_a_report() -> None:
    invoiced = replace(metered(), latest_invoice_at=AT)
    assert can_be_reported(invoiced, at=AT, as_of=AT - SECOND)
    assert not can_be_reported(invoiced, at=AT - SECOND, as_of=AT - SECOND)


def test_a_report_has_the_quantity_the_period_and_an_identifier_of_its_account_and_second() -> None:
    assert decide_report(metered(), at=AT + SECOND, as_of=AT, closing=False) == NewReport(
        identifier=f"{team()}:{int(AT.timestamp())}", as_of=AT, quantity=10, period_starts_at=JANUARY
    )


def test_only_a_quantity_that_changed_is_reported() -> None:
    assert decide(metered(report(JANUARY, 10))) is None
    assert decide(metered(report(JANUARY, 9))) == 10
    assert decide(metered(report(JANUARY, 9), cents=0)) == 0
    assert decide(metered(cents=0)) is None
    assert decide(metered(report(ANCHOR, 10))) is None


def test_an_account_that_cannot_be_reported_gets_none() -> None:
    assert decide(replace(metered(), subscribed=False)) is None
    assert decide(metered(), ANCHOR - SECOND) is None
    assert (
        decide_report(replace(metered(), latest_invoice_at=AT), at=AT - SECOND, as_of=AT - SECOND, closing=False)
        is None
    )
    assert decide_report(replace(metered(), stripe_ended_at=AT), at=AT + SECOND, as_of=AT, closing=False) is None


@pytest.mark.parametrize("state", [ACCEPTED, DROPPED])
def test_a_report_is_the_latest_unless_it_closes_a_period(state: MeterReportState) -> None:
    later = metered(report(AT + SECOND, 10, state))
    assert decide(later) is None
    assert decide(later, closing=True) == 10


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("state", [ACCEPTED, DROPPED])
def test_an_account_has_one_report_a_second(state: MeterReportState, *, closing: bool) -> None:
    assert decide(metered(report(AT, 4, state)), closing=closing) is None
    assert decide(metered(report(AT - SECOND, 4, state)), closing=closing) == 10


def test_a_new_report_supersedes_older_pending_ones_of_its_period() -> None:
    new = NewReport(identifier="new", as_of=AT, quantity=1, period_starts_at=JANUARY)
    older = MeterReport(as_of=AT - SECOND, quantity=1, state=PENDING, period_starts_at=JANUARY)
    assert is_superseded(older, new)
    assert not is_superseded(replace(older, claimed=True), new)
    assert not is_superseded(replace(older, early=True), new)
    assert is_superseded(replace(older, early=True), new, closing=True)
    assert not is_superseded(replace(older, as_of=AT), new)
    assert not is_superseded(replace(older, period_starts_at=ANCHOR), new)
    assert not is_superseded(replace(older, period_starts_at=None), new)
    assert not any(is_superseded(replace(older, state=state), new) for state in (ACCEPTED, PARKED, DROPPED))

"""Balances against a recomputation that shares nothing with the statements: facts, fractions, a sum."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import (
    DAY,
    HOUR,
    START,
    SYSTEM,
    add_version,
    make_id,
    record,
    session_report,
    stopped_report,
    team,
    used,
)
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.rating import PriceVersion
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.storage.ledger.balances import get_balance, list_balances
from usage_tasks.storage.ledger.entries import Entry, append_entries
from usage_tasks.storage.ledger.posting import post_stopped
from usage_tasks.storage.pricing.prices import publish_prices

MICROSECOND: Final = timedelta(microseconds=1)
CHANGE_AT: Final = START + 3 * HOUR
NEW_SMALL: Final = Decimal("2.3333333333")
PRICES: Final = {"small": (Fraction(1, 10), Fraction(NEW_SMALL)), "large": (Fraction(1, 2), Fraction(1, 2))}
"""Before and after the change."""

OFFSETS = st.one_of(
    st.integers(0, 24).map(lambda quarters: timedelta(minutes=15 * quarters)),
    st.timedeltas(timedelta(0), 6 * HOUR),
)
INSTANTS = OFFSETS.map(lambda offset: START + offset)


@st.composite
def reports(draw: st.DrawFn) -> SessionReport:
    """Running, stopping, stopped, odd; few sessions, so that some reports correct others."""
    stopping_at = draw(st.none() | INSTANTS)
    stopped_at = draw(st.one_of(st.none(), INSTANTS, INSTANTS))
    return session_report(
        instance_id=make_id(draw(st.integers(0, 1))),
        workspace_class=draw(st.sampled_from(sorted(PRICES))),
        started_at=draw(INSTANTS),
        stopping_at=stopping_at,
        stopped_at=stopped_at,
        observed_at=START + draw(st.integers(0, 1000)) * HOUR,
    )


@st.composite
def settlements(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from([EntryKind.INVOICE, EntryKind.RESET, EntryKind.UPGRADE]))
    return Entry(
        attribution_id=team(),
        key=f"{kind}:{draw(st.integers(0, 1000))}",
        kind=kind,
        credit_cents=-draw(st.integers(0, 10_000)),
        effective_at=draw(INSTANTS),
        description="a settlement",
    )


BATCHES = st.lists(reports(), min_size=1, max_size=3)
STEPS = st.lists(st.one_of(BATCHES, BATCHES, INSTANTS, st.just(START + DAY), settlements()), min_size=3, max_size=8)


def seconds(started_at: datetime, until: datetime) -> int:
    return max(0, floor(Fraction((until - started_at) // MICROSECOND, 10**6) + Fraction(1, 2)))


def cents(facts: SessionReport, at: datetime) -> int:
    """Price the usage until an instant, from the facts alone."""
    until = min(facts.stopping_at or facts.stopped_at or at, at)
    before, after = PRICES[facts.workspace_class]
    whole = seconds(facts.started_at, until)
    early = min(whole, seconds(facts.started_at, CHANGE_AT)) if until > CHANGE_AT else whole
    return floor(Fraction(100, 60) * (early * before + (whole - early) * after) + Fraction(1, 2))


def latest(facts: dict[object, SessionReport], report: SessionReport) -> SessionReport:
    """Return the report that holds: the one with more of the end, then the later one."""
    held = facts.get(report.instance_id)
    return report if held is None or knowledge(report) > knowledge(held) else held


def knowledge(report: SessionReport) -> tuple[bool, bool, datetime]:
    return report.stopped_at is not None, report.stopping_at is not None, report.observed_at


def distinctly_observed(steps: Sequence[object]) -> Sequence[object]:
    """Give reports distinct instants of observation; another test covers ties."""
    seen: set[datetime] = set()
    kept: list[object] = []
    for step in steps:
        if isinstance(step, list):
            fresh = []
            for each in step:
                if each.observed_at not in seen:
                    seen.add(each.observed_at)
                    fresh.append(each)
            kept.append(fresh)
        else:
            kept.append(step)
    return kept


@pytest.mark.holds("usage.balance")
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS.map(distinctly_observed), asked=st.lists(INSTANTS, min_size=1, max_size=4))
def test_a_balance_at_any_instant_is_what_the_facts_say(
    connection: Connection, steps: Sequence[object], asked: list[datetime]
) -> None:
    savepoint = connection.begin_nested()
    publish_prices(connection, {"small": NEW_SMALL}, at=CHANGE_AT, actor=SYSTEM)
    facts: dict[object, SessionReport] = {}
    settled: dict[str, Entry] = {}
    for step in steps:
        if isinstance(step, Entry):
            append_entries(connection, [step])
            settled.setdefault(step.key, step)
        elif isinstance(step, datetime):
            post_stopped(connection, at=step, limit=100)
        elif isinstance(step, list):
            record(connection, *step)
            for each in step:
                facts[each.instance_id] = latest(facts, each)
    edges = [at for each in facts.values() for at in (each.started_at, each.stopping_at, each.stopped_at) if at]
    midst = [one + (other - one) / 2 for one, other in pairwise(sorted(edges))]
    for at in [*asked, *edges, *midst, START + DAY]:
        expected = sum(cents(each, at) for each in facts.values() if each.started_at <= at)
        expected += sum(each.credit_cents for each in settled.values() if each.effective_at <= at)
        assert get_balance(connection, team(), at=at) == expected
    held = connection.execute(text("SELECT COALESCE(sum(carried_cents), 0) FROM account_balance")).scalar_one()
    assert held == connection.execute(text("SELECT COALESCE(sum(credit_cents), 0) FROM ledger_entry")).scalar_one()
    savepoint.rollback()


@pytest.mark.holds("usage.balance")
def test_an_account_that_nobody_knows_has_a_balance_of_zero(connection: Connection) -> None:
    assert get_balance(connection, team("nobody"), at=START) == 0


@pytest.mark.holds("usage.balance")
def test_balances_add_up_and_may_be_negative(connection: Connection) -> None:
    used(connection, team(), 100, at=START + HOUR)
    used(connection, team(), 900, at=START + HOUR)
    assert get_balance(connection, team(), at=START + HOUR) == 1000
    invoice = Entry(
        attribution_id=team(),
        key="invoice:in_1",
        kind=EntryKind.INVOICE,
        credit_cents=-1050,
        effective_at=START + 2 * HOUR,
        description="an invoice",
    )
    append_entries(connection, [invoice])
    assert get_balance(connection, team(), at=START + 2 * HOUR) == -50
    assert get_balance(connection, team(), at=START + 2 * HOUR - MICROSECOND) == 1000


def test_each_account_is_asked_at_its_own_instant(connection: Connection) -> None:
    used(connection, team("a"), 100, at=START + HOUR)
    used(connection, team("b"), 200, at=START + HOUR)
    asked = [(team("a"), START + HOUR), (team("b"), START), (team("c"), START)]
    assert list_balances(connection, asked) == {team("a"): 100, team("b"): 0, team("c"): 0}


@pytest.mark.holds("usage.balance", "lesson.stale-limits")
def test_a_running_session_costs_more_each_second_and_is_never_written(connection: Connection) -> None:
    record(connection, session_report(workspace_class="xlarge"))
    minutes = [get_balance(connection, team(), at=START + timedelta(minutes=n)) for n in (-1, 0, 1, 2, 60)]
    assert minutes == [0, 0, 100, 200, 6000]
    assert connection.execute(text("SELECT count(*) FROM ledger_entry")).scalar_one() == 0


def test_a_correction_counts_at_once_and_at_every_instant(connection: Connection) -> None:
    wrong = stopped_report(HOUR, workspace_class="large")
    record(connection, wrong)
    post_stopped(connection, at=START + DAY, limit=100)
    longer = {"instance_id": wrong.instance_id, "workspace_class": "large", "observed_at": START + DAY}
    record(connection, stopped_report(2 * HOUR, **longer))
    for _ in range(2):
        at_quarters = [get_balance(connection, team(), at=START + quarter * HOUR / 4) for quarter in (2, 4, 6, 8, 10)]
        assert at_quarters == [1500, 3000, 4500, 6000, 6000]
        post_stopped(connection, at=START + DAY, limit=100)


def test_a_session_that_turns_out_to_have_started_later_costs_nothing_before(connection: Connection) -> None:
    wrong = stopped_report(HOUR, workspace_class="large")
    record(connection, wrong)
    post_stopped(connection, at=START + DAY, limit=100)
    later = {"instance_id": wrong.instance_id, "workspace_class": "large", "started_at": START + 2 * HOUR}
    record(connection, stopped_report(HOUR, **later))
    for _ in range(2):
        at_hours = [get_balance(connection, team(), at=START + hour * HOUR) for hour in (0, 1, 2, 3, 4)]
        assert at_hours == [0, 0, 0, 3000, 3000]
        post_stopped(connection, at=START + DAY, limit=100)


def test_of_a_session_that_lost_its_price_what_was_posted_is_what_counts(connection: Connection) -> None:
    add_version(connection, "gold", PriceVersion(effective_from=START + DAY, credits_per_minute=Decimal(1)))
    wrong = stopped_report(2 * HOUR, workspace_class="large")
    record(connection, wrong)
    post_stopped(connection, at=START + DAY, limit=100)
    gold = {"instance_id": wrong.instance_id, "workspace_class": "gold", "observed_at": START + DAY}
    record(connection, stopped_report(3 * HOUR, **gold))
    assert post_stopped(connection, at=START + DAY, limit=100).entries == 0
    at_hours = [get_balance(connection, team(), at=START + hour * HOUR) for hour in (1, 2, 3)]
    assert at_hours == [0, 6000, 6000]


def test_the_server_plans_a_balance_once_and_not_at_each_question(connection: Connection) -> None:
    # Most running sessions belong to one account: a plan for another account looks cheap.
    runs = [(1, 1500), *((number, 1) for number in range(2, 40))]
    for number, count in runs:
        account = {"attribution_id": team(number)}
        used(connection, team(number), 100 * number, at=START + HOUR)
        record(connection, *(session_report(instance_id=make_id((number, each)), **account) for each in range(count)))
    connection.execute(text("ANALYZE"))
    for _ in range(20):
        get_balance(connection, team(3), at=START + DAY)
    plans = "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%carried_cents%'"
    custom, generic = connection.execute(text(plans)).one()
    assert custom <= 5 < generic

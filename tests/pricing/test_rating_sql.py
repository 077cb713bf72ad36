from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import START, add_version, make_id
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.prices import ALL_TIME
from usage_tasks.domain.rating import ChargeRule, PriceVersion, rate
from usage_tasks.storage.pricing.rating_sql import RATED
from usage_tasks.storage.rows import as_json

RATE = f"""
    WITH session AS (
        SELECT * FROM jsonb_to_recordset(CAST(:sessions AS jsonb)) AS s(
            instance_id uuid, workspace_class text, priced_from timestamptz[], price_keys text[],
            started_at timestamptz, until timestamptz)
    ), {RATED}
    SELECT instance_id, credit_cents FROM rated
"""  # noqa: S608 - a constant
# Few enough seconds that instants coincide with prices' edges, and halves of a second that tie.
COARSE = st.integers(-3, 20).map(lambda halves: timedelta(milliseconds=500 * halves))
FINE = st.timedeltas(timedelta(days=-1), timedelta(days=40))
OFFSETS = st.one_of(COARSE, FINE)
PRICES = st.one_of(st.decimals(0, 100, places=10), st.sampled_from([Decimal("0.1666666667"), Decimal("0.5")]))
MINIMUMS = st.sampled_from([0, 0, 1, 5, 250]).map(CreditCents)
STEPS = st.one_of(st.just(1), st.sampled_from([2, 3, 7, 60, 3600]), st.integers(1, 86_400))
RULES = st.builds(ChargeRule, minimum_cents=MINIMUMS, rounding_seconds=STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A session under a price history of its own."""

    started_at: datetime
    until: datetime
    versions: Sequence[PriceVersion]

    def cents(self) -> int:
        ended_at = max(self.started_at, self.until)
        return rate(self.started_at, ended_at, self.versions).credit_cents


@st.composite
def cases(draw: st.DrawFn) -> Case:
    changes = draw(st.lists(OFFSETS, max_size=4, unique=True))
    edges = [ALL_TIME, *sorted(START + change for change in changes)]
    instants = st.one_of(st.sampled_from([*edges[1:], START]), OFFSETS.map(lambda offset: START + offset))
    return Case(
        started_at=draw(instants),
        until=draw(instants),
        versions=[
            PriceVersion(effective_from=edge, credits_per_minute=draw(PRICES), rule=draw(RULES)) for edge in edges
        ],
    )


def rated(connection: Connection, examples: Sequence[Case]) -> list[int]:
    """Rate each example under a class of its own, in one statement; leave nothing."""
    ids = [make_id(number) for number in range(len(examples))]
    sessions = [
        {
            "instance_id": ids[number],
            "workspace_class": str(number),
            "started_at": example.started_at,
            "until": example.until,
        }
        for number, example in enumerate(examples)
    ]
    savepoint = connection.begin_nested()
    for number, example in enumerate(examples):
        for version in example.versions:
            add_version(connection, str(number), version)
    found = {
        row.instance_id: row.credit_cents for row in connection.execute(text(RATE), {"sessions": as_json(sessions)})
    }
    savepoint.rollback()
    return [found[each] for each in ids]


@pytest.mark.holds("numbers.rounding")
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(examples=st.lists(cases(), min_size=15, max_size=40))
def test_the_database_rates_as_the_domain_does(connection: Connection, examples: list[Case]) -> None:
    assert rated(connection, examples) == [example.cents() for example in examples]


def test_a_session_of_a_class_without_a_price_is_not_rated(connection: Connection) -> None:
    session = {"instance_id": make_id("x"), "workspace_class": "gold", "started_at": START, "until": START}
    assert connection.execute(text(RATE), {"sessions": as_json([session])}).all() == []


@pytest.mark.holds("numbers.rounding")
def test_the_sum_of_many_prices_is_rounded_once_and_exactly(connection: Connection) -> None:
    # Three seconds at three prices, each 0.1 cent over a third of one: 1 cent in all, 0 if rounded one by one.
    versions = [
        PriceVersion(effective_from=edge, credits_per_minute=Decimal("0.2"))
        for edge in [ALL_TIME, START + timedelta(seconds=1), START + timedelta(seconds=2)]
    ]
    example = Case(started_at=START, until=START + timedelta(seconds=3), versions=versions)
    assert rated(connection, [example]) == [1]


@pytest.mark.holds("numbers.rounding")
def test_half_a_cent_rounds_up_in_the_database_too(connection: Connection) -> None:
    versions = [PriceVersion(effective_from=ALL_TIME, credits_per_minute=Decimal("0.5"))]
    example = Case(started_at=START, until=START + timedelta(seconds=69), versions=versions)
    assert rated(connection, [example]) == [58]


@pytest.mark.holds("numbers.minimum-and-step")
def test_step_and_minimum_are_those_of_the_start_and_hold_in_the_database_too(connection: Connection) -> None:
    rule = ChargeRule(minimum_cents=CreditCents(30), rounding_seconds=60)
    versions = [
        PriceVersion(effective_from=ALL_TIME, credits_per_minute=Decimal("0.2"), rule=rule),
        PriceVersion(effective_from=START + timedelta(seconds=30), credits_per_minute=Decimal(1)),
    ]
    lengths = [0, 1, 30, 60, 61]
    examples = [Case(started_at=START, until=START + timedelta(seconds=n), versions=versions) for n in lengths]
    assert rated(connection, examples) == [0, 30, 30, 30, 120]

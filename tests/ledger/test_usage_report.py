from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import DAY, START, add_version, make_id, team
from tests.pricing.test_rating_sql import MINIMUMS, PRICES, STEPS
from usage_tasks.domain.accrual import accrued, split
from usage_tasks.domain.prices import ALL_TIME
from usage_tasks.domain.rating import ChargeRule, PriceVersion, rate
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.storage.ledger.usage_report import Group, Scope, UsageRow, UsageTotals, sum_usage

END = START + 12 * DAY
# Few enough instants that starts, ends, prices' edges and cuts coincide, or lie half a second apart.
NEAR = st.sampled_from([timedelta(0), timedelta(milliseconds=500), timedelta(seconds=1), timedelta(seconds=59)])
INSTANTS = st.one_of(
    # Of more than one week: weeks after the range are left out unless a session reaches back.
    st.builds(lambda days, near: START + days * DAY + near, st.sampled_from([-1, 0, 1, 2, 3, 4, 11, 12]), NEAR),
    st.timedeltas(timedelta(days=-1), timedelta(days=3)).map(lambda offset: START + offset),
)
CUTS = st.lists(INSTANTS, max_size=5).map(sorted)
INSERT = text("""
    INSERT INTO workspace_instance (instance_id, attribution_id, user_id, workspace_id, workspace_class, started_at,
                                    stopped_at, capped_at, cap_reason, observed_at, last_seen_at)
    VALUES (:instance_id, :attribution_id, :user_id, :workspace_id, :workspace_class, :started_at, :stopped_at,
            :capped_at, CASE WHEN CAST(:capped_at AS timestamptz) IS NOT NULL THEN 'lifetime' END, :started_at,
            :started_at)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A session under a price history of its own: stopped, capped, or running on."""

    number: int
    started_at: datetime
    ended_at: datetime | None
    stopped: bool
    versions: Sequence[PriceVersion]

    def row(self) -> dict[str, Any]:
        return {
            "instance_id": make_id(f"case {self.number}"),
            "attribution_id": team(self.number % 2),
            "user_id": make_id(self.number % 3),
            "workspace_id": f"ws-{self.number % 4}",
            "workspace_class": f"class {self.number}",
            "started_at": self.started_at,
            "stopped_at": self.ended_at if self.stopped else None,
            "capped_at": None if self.stopped else self.ended_at,
        }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    changes = draw(st.lists(INSTANTS, max_size=3, unique=True))
    rules = st.builds(ChargeRule, minimum_cents=MINIMUMS, rounding_seconds=STEPS)
    versions = [
        PriceVersion(effective_from=edge, credits_per_minute=draw(PRICES), rule=draw(rules))
        for edge in [ALL_TIME, *sorted(changes)]
    ]
    ended_at = draw(st.none() | INSTANTS)
    return Case(number=0, started_at=draw(INSTANTS), ended_at=ended_at, stopped=draw(st.booleans()), versions=versions)


NUMBERED = st.lists(cases(), min_size=1, max_size=8).map(
    lambda found: [replace(each, number=number) for number, each in enumerate(found)]
)
RANGES = st.builds(lambda start, length: (start, start + length), INSTANTS, st.timedeltas(timedelta(0), 3 * DAY))


def report(
    connection: Connection, start: datetime, end: datetime, at: datetime, *groups: Group, **asked: Any
) -> tuple[Sequence[UsageRow], UsageTotals]:
    options = {"after": None, "limit": 10_000} | asked
    scope = options.pop("scope", Scope(account=None))
    return sum_usage(connection, scope, start=start, end=end, at=at, groups=groups, **options)


def expected(examples: Sequence[Case], start: datetime, end: datetime, at: datetime) -> dict[tuple[date, str], Any]:
    """By day and class, from the domain's own split at midnights and the range's edges."""
    midnights = [START + number * DAY for number in range(-2, 17)]
    cuts = [start, *(each for each in midnights if start < each < end), end]
    found = {}
    for each in examples:
        last = at if each.ended_at is None else min(each.ended_at, at)
        ran_until = max(each.started_at, last)
        if each.started_at > at:
            continue
        shares = split(each.started_at, ran_until, each.versions, cuts)
        for (begin, until), share in zip(pairwise(cuts), shares, strict=True):
            if each.started_at < until and (ran_until > begin or each.started_at >= begin):
                key = (begin.astimezone(UTC).date(), f"class {each.number}")
                found[key] = (share.credit_cents, share.seconds, 1)
    return found


@pytest.mark.holds("usage.split-minimum")
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(examples=NUMBERED, asked=RANGES, at=INSTANTS, tick=INSTANTS)
def test_the_database_splits_as_the_domain_does(
    connection: Connection, examples: list[Case], asked: tuple[datetime, datetime], at: datetime, tick: datetime
) -> None:
    start, end = asked
    savepoint = connection.begin_nested()
    for each in examples:
        for version in each.versions:
            add_version(connection, f"class {each.number}", version)
        connection.execute(INSERT, each.row())
    post_batch(connection, at=tick)  # some are in the ledger, some are not: the report must not see the difference
    rows, totals = report(connection, start, end, at, Group.DAY, Group.WORKSPACE_CLASS)
    whole, same = report(connection, start, end, at, Group.ATTRIBUTION_ID)
    savepoint.rollback()
    by_key = expected(examples, start, end, at)
    assert {(row.day, row.workspace_class): (row.credit_cents, row.seconds, row.sessions) for row in rows} == by_key
    sums = (sum(cents for cents, _, _ in by_key.values()), sum(seconds for _, seconds, _ in by_key.values()))
    sessions = len({name for _, name in by_key})
    assert (totals.rows, totals.credit_cents, totals.seconds, totals.sessions) == (len(by_key), *sums, sessions)
    assert (same.credit_cents, same.seconds, same.sessions) == (*sums, sessions)
    assert sum(row.credit_cents for row in whole) == sums[0]


@pytest.mark.holds("usage.split-range")
@settings(max_examples=200, deadline=None)
@given(case=cases(), cuts=CUTS, at=INSTANTS)
def test_the_parts_of_every_partition_sum_to_the_whole(case: Case, cuts: list[datetime], at: datetime) -> None:
    ended_at = at if case.ended_at is None else min(case.ended_at, at)
    parts = split(case.started_at, ended_at, case.versions, [ALL_TIME, *cuts, START + 400 * DAY])
    price = rate(case.started_at, ended_at, case.versions)
    assert sum(part.credit_cents for part in parts) == price.credit_cents
    assert sum(part.seconds for part in parts) == price.runtime_seconds
    assert all(part.credit_cents >= 0 and part.seconds >= 0 for part in parts)
    assert accrued(case.started_at, case.ended_at, case.versions, until=case.started_at).credit_cents == 0

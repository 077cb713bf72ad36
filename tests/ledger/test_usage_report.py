from collections.abc import Mapping, Sequence
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
from usage_tasks.domain.states import State, price_key, split_price_key
from usage_tasks.domain.timelines import Segment, at_instant, join, prices_along
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.storage.ledger.usage_report import Group, Scope, UsageRow, UsageTotals, sum_usage
from usage_tasks.storage.pricing.timelines_sql import encode
from usage_tasks.storage.rows import as_json

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
                                    timeline, stopped_at, capped_at, cap_reason, observed_at, last_seen_at)
    VALUES (:instance_id, :attribution_id, :user_id, :workspace_id, :workspace_class, :started_at,
            CAST(:timeline AS jsonb), :stopped_at, :capped_at,
            CASE WHEN CAST(:capped_at AS timestamptz) IS NOT NULL THEN 'lifetime' END, :started_at,
            :started_at)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A session under price histories of its own: stopped, capped, or running on; of one part or of several."""

    number: int
    started_at: datetime
    ended_at: datetime | None
    stopped: bool
    timeline: Sequence[Segment]
    of_key: Mapping[str, Sequence[PriceVersion]]
    """Under the price keys of class A and class B; the name of a class has the number behind it."""

    def named(self, name: str) -> str:
        return f"{name} {self.number}"

    @property
    def segments(self) -> Sequence[Segment]:
        return [replace(each, workspace_class=self.named(each.workspace_class)) for each in self.timeline]

    @property
    def histories(self) -> Mapping[str, Sequence[PriceVersion]]:
        return {
            price_key(self.named(name), state): versions
            for key, versions in self.of_key.items()
            for name, state in [split_price_key(key)]
        }

    @property
    def versions(self) -> Sequence[PriceVersion]:
        return prices_along(self.segments, self.histories, class_at_start=self.named("A"))

    def row(self) -> dict[str, Any]:
        return {
            "instance_id": make_id(f"case {self.number}"),
            "attribution_id": team(self.number % 2),
            "user_id": make_id(self.number % 3),
            "workspace_id": f"ws-{self.number % 4}",
            "workspace_class": self.named("A"),
            "started_at": self.started_at,
            "timeline": as_json(encode(self.segments)) if self.timeline else None,
            "stopped_at": self.ended_at if self.stopped else None,
            "capped_at": None if self.stopped else self.ended_at,
        }


RULES = st.builds(ChargeRule, minimum_cents=MINIMUMS, rounding_seconds=STEPS)
HISTORIES = st.lists(INSTANTS, max_size=3, unique=True).flatmap(
    lambda changes: st.tuples(
        *(
            st.builds(PriceVersion, effective_from=st.just(edge), credits_per_minute=PRICES, rule=RULES)
            for edge in [ALL_TIME, *sorted(changes)]
        )
    )
)
SEGMENTS = st.builds(
    Segment,
    begins_at=INSTANTS,
    observed_at=st.just(START),
    workspace_class=st.sampled_from("AB"),
    state=st.sampled_from([State.RUNNING, State.SUSPENDED]),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    timeline = join(draw(st.just([]) | st.lists(SEGMENTS, max_size=4)))
    return Case(
        number=0,
        started_at=draw(INSTANTS),
        ended_at=draw(st.none() | INSTANTS),
        stopped=draw(st.booleans()),
        timeline=timeline,
        of_key={key: draw(HISTORIES) for key in sorted({"A", *(each.price_key for each in timeline)})},
    )


NUMBERED = st.lists(cases(), min_size=1, max_size=8).map(
    lambda found: [replace(each, number=number) for number, each in enumerate(found)]
)
RANGES = st.builds(lambda start, length: (start, start + length), INSTANTS, st.timedeltas(timedelta(0), 3 * DAY))


def figures(row: UsageRow) -> tuple[int, int, int]:
    return row.credit_cents, row.seconds, row.sessions


def report(
    connection: Connection, start: datetime, end: datetime, at: datetime, *groups: Group, **asked: Any
) -> tuple[Sequence[UsageRow], UsageTotals]:
    options = {"after": None, "limit": 10_000} | asked
    scope = options.pop("scope", Scope(account=None))
    return sum_usage(connection, scope, start=start, end=end, at=at, groups=groups, **options)


Key = tuple[date, str, str]


def expected(examples: Sequence[Case], start: datetime, end: datetime, at: datetime) -> dict[Key, tuple[int, int, int]]:
    """By day, class and state, from the domain's own split at midnights and the edges of the range and of segments."""
    midnights = [START + number * DAY for number in range(-2, 17)]
    found: dict[Key, tuple[int, int, int]] = {}
    for each in examples:
        edges = {*midnights, *(segment.begins_at for segment in each.timeline)}
        cuts = [start, *sorted(edge for edge in edges if start < edge < end), end]
        last = at if each.ended_at is None else min(each.ended_at, at)
        ran_until = max(each.started_at, last)
        if each.started_at > at:
            continue
        shares = split(each.started_at, ran_until, each.versions, cuts)
        for (begin, until), share in zip(pairwise(cuts), shares, strict=True):
            if each.started_at < until and (ran_until > begin or each.started_at >= begin):
                present = at_instant(each.segments, max(begin, each.started_at), class_at_start=each.named("A"))
                key = (begin.astimezone(UTC).date(), *present)
                cents, seconds, _ = found.get(key, (0, 0, 1))
                found[key] = (cents + share.credit_cents, seconds + share.seconds, 1)
    return found


def by_state(by_key: Mapping[Key, tuple[int, int, int]]) -> dict[str, tuple[int, int, int]]:
    """Sum by state alone; a session counts once in each."""
    found: dict[str, tuple[int, int, int]] = {}
    sessions = {(state, name.partition(" ")[2]) for _, name, state in by_key}
    for (_, _, state), (cents, seconds, _) in by_key.items():
        before = found.get(state, (0, 0, 0))
        count = sum(of == state for of, _ in sessions)
        found[state] = (before[0] + cents, before[1] + seconds, count)
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
        for key, versions in each.histories.items():
            for version in versions:
                add_version(connection, key, version)
        connection.execute(INSERT, each.row())
    post_batch(connection, at=tick)  # some are in the ledger, some are not: the report must not see the difference
    rows, totals = report(connection, start, end, at, Group.DAY, Group.WORKSPACE_CLASS, Group.STATE)
    states, also = report(connection, start, end, at, Group.STATE)
    whole, same = report(connection, start, end, at, Group.ATTRIBUTION_ID)
    savepoint.rollback()
    by_key = expected(examples, start, end, at)
    assert {(row.day, row.workspace_class, row.state): figures(row) for row in rows} == by_key
    assert {row.state: figures(row) for row in states} == by_state(by_key)
    sums = (sum(cents for cents, _, _ in by_key.values()), sum(seconds for _, seconds, _ in by_key.values()))
    sessions = len({name.partition(" ")[2] for _, name, _ in by_key})
    assert (totals.rows, totals.credit_cents, totals.seconds, totals.sessions) == (len(by_key), *sums, sessions)
    for total in (same, also):
        assert (total.credit_cents, total.seconds, total.sessions) == (*sums, sessions)
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

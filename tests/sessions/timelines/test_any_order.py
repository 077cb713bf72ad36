"""Any order, repetition and split of reports ends in the oracle's timeline, facts, cents and quarantine."""

from datetime import datetime
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection

from tests.conftest import PRICES
from tests.examples import examples
from tests.factories import HOUR, START
from tests.sessions.timelines.oracle import RUNNING, Segment, Session, Told, Value, Version, living
from tests.sessions.timelines.stories import (
    FIRST_VERSION_AT,
    INSTANTS,
    VALUES,
    Story,
    agreeing,
    contradicting,
    deliveries,
    parts,
    price_changes,
    report,
    segment,
)
from tests.sessions.timelines.system import NOW, System, assert_same, assert_same_quarantine, edges_of
from usage_tasks.storage.engine import rehearsal

STATEFUL = settings(
    max_examples=examples(15),
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=st.one_of(agreeing(), contradicting()), data=st.data())
def test_any_delivery_ends_in_one_row(connection: Connection, story: Story, data: st.DataObject) -> None:
    session = Session(story.reports, story.prices)
    found = []
    for batches in (data.draw(deliveries(story.reports)), [story.reports]):
        with rehearsal(connection):
            system = System(connection, story.prices)
            for batch in batches:
                system.hear(*batch)
            assert_same(system, session, edges_of(session)[-4:])
            assert_same_quarantine(system, session)
            found.append((system.facts(), system.timeline_text()))
    assert found[0] == found[1]


class Reporting(RuleBasedStateMachine):
    """A platform reports in any order, whole or in parts, once or often; the ledger job ticks, prices change."""

    connection: Connection
    stories: st.SearchStrategy[Story]

    @initialize(data=st.data(), asked=st.lists(INSTANTS, min_size=1, max_size=3))
    def begin(self, data: st.DataObject, asked: list[datetime]) -> None:
        """Take a story; nothing has arrived yet."""
        self.story = data.draw(self.stories)
        self.savepoint = self.connection.begin_nested()
        self.prices = {key: list(versions) for key, versions in self.story.prices.items()}
        self.system = System(self.connection, self.prices)
        self.asked = asked
        self.arrived: list[dict[str, Any]] = []

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        """Some reports arrive in one batch, new ones and old ones."""
        chosen = data.draw(st.lists(st.sampled_from(self.story.reports), min_size=1, max_size=3))
        self.system.hear(*chosen)
        self.arrived += chosen

    @rule(data=st.data())
    def report_in_parts(self, data: st.DataObject) -> None:
        """One report arrives in parts, in any order."""
        chosen = data.draw(st.sampled_from(self.story.reports))
        for part in data.draw(st.permutations(data.draw(parts(chosen)))):
            self.system.hear(part)
        self.arrived.append(chosen)

    @rule(data=st.data())
    def import_a_file(self, data: st.DataObject) -> None:
        """Reports without segments arrive in a file."""
        chosen = data.draw(st.lists(st.sampled_from(self.story.reports), min_size=1, max_size=3))
        rows = [{name: each for name, each in one.items() if name != "segments"} for one in chosen]
        self.system.hear_by_file(*rows)
        self.arrived += rows

    @precondition(lambda self: len({Told(each).claim[1:] for each in self.story.reports}) == 1)
    @rule(value=st.sampled_from(VALUES), taken_at=INSTANTS)
    def list_in_a_snapshot(self, value: Value, taken_at: datetime) -> None:
        """A snapshot lists the session: it changed then if it was another class or state by what is known.

        Not where reports contradict one another: what a row proves beside the present is lost with what is refused.
        """
        fields: dict[str, Any] = {"workspace_class": value.workspace_class, "user_id": self.story.reports[0]["user_id"]}
        known, present = Value(value.workspace_class, RUNNING), "unknown"
        session = Session(self.arrived, self.prices) if self.arrived else None
        if session is not None and not (session.is_inferred and taken_at < session.claim.observed_at):
            known, present = session.value_at(taken_at), "known"
        changed = [] if known == value else [segment(taken_at, *value)]
        row = report(observed_at=taken_at, **fields)
        assert self.system.list_in_a_snapshot(row | {"state": value.state}, taken_at=taken_at).rejections == []
        self.arrived.append(row | {"segments": changed, "present": present})

    @rule()
    def tick(self) -> None:
        """The ledger job posts what has stopped."""
        self.system.post()

    @rule()
    def release(self) -> None:
        """An operator releases what is refused: it still contradicts."""
        assert self.system.release().released == 0

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def change_a_price(self, data: st.DataObject) -> None:
        """An operator adds a version of a class or of a state, of the past."""
        value, added = data.draw(price_changes(Session(self.arrived, self.prices)))
        self.system.add_price(value, added)
        self.prices[value.price_key].append(added)

    @invariant()
    def is_the_oracles_session(self) -> None:
        """After each step the row, the charge, the ledger and the quarantine are the oracle's."""
        if getattr(self, "arrived", None):
            session = Session(self.arrived, self.prices)
            assert_same(self.system, session, [*self.asked, *edges_of(session)[-3:]])
            assert_same_quarantine(self.system, session)

    def teardown(self) -> None:
        """Leave nothing."""
        if hasattr(self, "savepoint"):
            self.savepoint.rollback()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stories", [agreeing(), contradicting()], ids=["agreeing", "contradicting"])
def test_each_step_ends_in_the_oracles_session(connection: Connection, stories: st.SearchStrategy[Story]) -> None:
    machine = type("Machine", (Reporting,), {"connection": connection, "stories": stories})
    run_state_machine_as_test(machine, settings=STATEFUL)


def test_a_row_of_a_snapshot_is_a_segment_where_it_differs_from_what_is_known(connection: Connection) -> None:
    added = {"large:suspended": [Version(FIRST_VERSION_AT, Decimal(0))]}
    system = System(connection, added)
    first = report(workspace_class="large", observed_at=START)
    system.hear(first)
    rows = [
        ("large", "running"),
        ("large", "suspended"),
        ("large", "suspended"),
        ("large", "running"),
        ("xlarge", "running"),
    ]
    for number, (name, state) in enumerate(rows, start=1):
        taken_at = START + number * HOUR
        row = report(workspace_class=name, observed_at=taken_at) | {"state": state}
        assert system.list_in_a_snapshot(row, taken_at=taken_at).rejections == []
    changes = [(2, "large", "suspended"), (4, "large", "running"), (5, "xlarge", "running")]
    expected = [Segment(START + at * HOUR, START + at * HOUR, Value(name, state)) for at, name, state in changes]
    assert system.timeline() == expected
    assert system.balances([START + 6 * HOUR]) == [60 * (2 * 50 + 50 + 100)]


_LARGE = ("large:suspended", "large:stopped_kept", "Large", "Large:suspended")
_TOGETHER = [
    report(observed_at=START + HOUR, segments=[segment(START + HOUR, *each)])
    for each in (("large",), ("large", "stopped_kept"), ("large", "suspended"), ("Large", "suspended"))
]
"""Seen together, of the same instant: the greatest class by code points holds, then the greatest state."""


@pytest.mark.parametrize("order", list(permutations(_TOGETHER, 3)))
def test_of_segments_of_one_instant_and_one_observation_the_greatest_holds(
    connection: Connection, order: tuple[dict[str, Any], ...]
) -> None:
    added = {key: [Version(FIRST_VERSION_AT, Decimal(1))] for key in _LARGE}
    system = System(connection, added)
    for each in order:
        system.hear(each)
    session = Session(order, {**listed_prices(), **added})
    assert system.values_at([START + HOUR]) == [max(Told(each).segments[0].value for each in order)]
    assert system.timeline() == list(living(session.segments))


# The last one has the class as first reported, and the right one from the start on.
_CORRECTED = [
    report(workspace_class="small", observed_at=START + HOUR),
    report(
        workspace_class="small",
        observed_at=START + 2 * HOUR,
        stopped_at=START + 2 * HOUR,
        segments=[segment(START + HOUR, "medium")],
    ),
    report(
        workspace_class="small",
        observed_at=START + 3 * HOUR,
        stopped_at=START + 2 * HOUR,
        segments=[segment(START, "large"), segment(START + HOUR, "medium")],
    ),
]
_EARLIER = report(workspace_class="xlarge", observed_at=START)


def listed_prices() -> dict[str, list[Version]]:
    """The prices of every test's database."""
    return {key: [Version(FIRST_VERSION_AT, price)] for key, price in PRICES.items()}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_wrong_class_at_the_start_is_corrected_by_a_segment_from_the_start(
    connection: Connection, order: tuple[int, ...]
) -> None:
    system = System(connection, {})
    for number in order:
        system.hear(_CORRECTED[number])
    session = Session(_CORRECTED, listed_prices())
    assert session.claim.workspace_class == "small"
    assert session.cents(NOW) == 60 * 50 + 60 * 20
    assert system.quarantined() == []
    assert_same(system, session, edges_of(session))


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_correction_is_refused_with_the_class_that_it_corrects(
    connection: Connection, order: tuple[int, ...]
) -> None:
    # An earlier report of another class takes the session over: the correction named the class as it was known.
    told = [*_CORRECTED, _EARLIER]
    system = System(connection, {})
    for number in order:
        system.hear(told[number])
    session = Session(told, listed_prices())
    assert (session.claim.workspace_class, session.ended_at) == ("xlarge", None)
    assert_same(system, session, [])
    assert_same_quarantine(system, session)
    again = report(
        workspace_class="xlarge",
        observed_at=START + 4 * HOUR,
        stopped_at=START + 2 * HOUR,
        segments=[segment(START, "large"), segment(START + HOUR, "medium")],
    )
    system.hear(again)
    session = Session([*told, again], listed_prices())
    assert session.cents(NOW) == 60 * 50 + 60 * 20
    assert_same(system, session, [])

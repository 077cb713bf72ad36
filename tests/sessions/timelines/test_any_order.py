"""Any order, repetition and split of reports ends in the oracle's timeline, facts, cents and quarantine."""

from datetime import datetime, timedelta
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
from tests.factories import HOUR, START
from tests.sessions.timelines.oracle import MICROSECOND, Session, Told, Version
from tests.sessions.timelines.stories import (
    FIRST_VERSION_AT,
    INSTANTS,
    LAST,
    USERS,
    VALUES,
    Story,
    contradictions,
    corrections,
    deliveries,
    everything,
    parts,
    report,
    segment,
    versions_from,
)
from tests.sessions.timelines.system import NOW, System, facts_of, gist_of
from usage_tasks.storage.engine import rehearsal

AGAINST_THE_DATABASE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
STATEFUL = settings(
    max_examples=25,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def instants_of(session: Session) -> list[datetime]:
    """The begin of each segment, the start, and the microseconds beside them: the values between are the same."""
    edges = {session.started_at, LAST, *(each.begins_at for each in session.segments)}
    return sorted({edge + offset for edge in edges for offset in (-MICROSECOND, timedelta(0), MICROSECOND)})


def assert_same(system: System, session: Session) -> None:
    """The stored row is the oracle's session, and so is its charge before it is posted and after."""
    instants = instants_of(session)
    assert system.facts() == facts_of(session)
    assert system.values_at(instants) == [session.value_at(each) for each in instants]
    asked = [*instants[-4:], NOW]
    assert [system.balance(at) for at in asked] == [session.cents(at) for at in asked]
    with rehearsal(system.connection):
        system.post()
        system.assert_verified()
        assert [system.balance(at) for at in asked] == [session.cents(at) for at in asked]
        if session.facts.stopped_at is not None:
            assert system.posted_cents() == session.cents(NOW)


def assert_same_quarantine(system: System, session: Session, *, by_class: bool) -> None:
    assert gist_of(map(Told, system.quarantined()), by_class=by_class) == gist_of(session.refused, by_class=by_class)


@AGAINST_THE_DATABASE
@given(story=st.one_of(corrections(users=USERS), contradictions()), data=st.data())
def test_any_delivery_ends_in_one_row(connection: Connection, story: Story, data: st.DataObject) -> None:
    found = []
    for batches in (data.draw(deliveries(story.reports)), [story.reports]):
        with rehearsal(connection):
            system = System(connection, story.prices)
            for batch in batches:
                system.hear(*batch)
            assert_same(system, Session(story.reports, story.prices))
            found.append((system.facts(), system.timeline_text()))
    assert found[0] == found[1]


class Reporting(RuleBasedStateMachine):
    """A platform reports in any order, whole or in parts, once or often; the ledger job ticks, prices change."""

    connection: Connection
    stories: st.SearchStrategy[Story]
    by_class: bool

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Take a story; nothing has arrived yet."""
        self.story = data.draw(self.stories)
        self.savepoint = self.connection.begin_nested()
        self.prices = {key: list(versions) for key, versions in self.story.prices.items()}
        self.system = System(self.connection, self.prices)
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

    @rule()
    def tick(self) -> None:
        """The ledger job posts what has stopped."""
        self.system.post()
        self.system.assert_verified()

    @precondition(lambda self: self.arrived)
    @rule(data=st.data(), value=st.sampled_from(VALUES), at=INSTANTS)
    def change_a_price(self, data: st.DataObject, value: Any, at: datetime) -> None:
        """An operator adds a version of a class or of a state, of the past."""
        versions = self.prices[value.price_key]
        if at not in {each.effective_from for each in versions}:
            versions.append(data.draw(versions_from(at)))
            self.system.add_price(value.price_key, versions[-1])

    @invariant()
    def is_the_oracles_session(self) -> None:
        """After each step the row, the charge and the quarantine are the oracle's."""
        if getattr(self, "arrived", None):
            session = Session(self.arrived, self.prices)
            assert_same(self.system, session)
            assert_same_quarantine(self.system, session, by_class=self.by_class)

    def teardown(self) -> None:
        """Leave nothing."""
        if hasattr(self, "savepoint"):
            self.savepoint.rollback()


def machine(connection: Connection, stories: st.SearchStrategy[Story], *, by_class: bool) -> type[Reporting]:
    """Return the class of machines on a connection, with stories of one kind."""
    return type("Machine", (Reporting,), {"connection": connection, "stories": stories, "by_class": by_class})


@pytest.mark.timeout(600)
def test_corrections_end_in_the_oracles_session_after_each_step(connection: Connection) -> None:
    run_state_machine_as_test(machine(connection, corrections(users=USERS), by_class=False), settings=STATEFUL)


@pytest.mark.timeout(600)
def test_contradictions_end_in_the_oracles_session_after_each_step(connection: Connection) -> None:
    run_state_machine_as_test(machine(connection, contradictions(), by_class=True), settings=STATEFUL)


# The first two of these reports agree, and so do the last two; "large" from the start corrects "small" openly.
_CORRECTED = [
    report(workspace_class="large", observed_at=START),
    report(workspace_class="small", observed_at=START + HOUR),
    report(
        workspace_class="small",
        observed_at=START + 2 * HOUR,
        stopped_at=START + 2 * HOUR,
        segments=[segment(START, "large"), segment(START + HOUR, "medium")],
    ),
    report(
        workspace_class="small",
        observed_at=START + 3 * HOUR,
        stopped_at=START + 3 * HOUR,
        segments=[segment(START + HOUR / 2, "xlarge")],
    ),
]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_correction_outlives_a_report_that_takes_the_session_over(
    connection: Connection, order: tuple[int, ...]
) -> None:
    # The earliest report refuses the second and the fourth. The third stays: its stop and its segments hold again,
    # although the fourth had overridden them as long as it was taken.
    system = System(connection, {})
    for number in order:
        system.hear(_CORRECTED[number])
    session = Session(_CORRECTED, {key: [Version(FIRST_VERSION_AT, price)] for key, price in PRICES.items()})
    assert session.ended_at == START + 2 * HOUR
    assert_same(system, session)


@AGAINST_THE_DATABASE
@given(story=everything(), data=st.data())
def test_corrections_and_contradictions_in_one_end_in_the_oracles_session(
    connection: Connection, story: Story, data: st.DataObject
) -> None:
    with rehearsal(connection):
        system = System(connection, story.prices)
        for each in data.draw(st.permutations(story.reports)):
            system.hear(each)
        assert_same(system, Session(story.reports, story.prices))

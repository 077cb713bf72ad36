from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.factories import HOUR, START, make_id, session_report
from usage_tasks.domain.merging import KnownSession, merge, rank
from usage_tasks.domain.prices import State
from usage_tasks.domain.sessions import NEVER, CapReason, FixedFacts, SessionReport
from usage_tasks.domain.timelines import Segment
from usage_tasks.domain.zombies import Cap

TICK = timedelta(microseconds=1)
SEEN = START + 2 * HOUR
REPORT = session_report(instance_id=make_id("one"), observed_at=SEEN)
LOW, HIGH = sorted([make_id("ann"), make_id("bob")])
HEARTBEAT = Cap(at=SEEN + HOUR, reason=CapReason.HEARTBEAT)
LIFETIME = Cap(at=SEEN + HOUR, reason=CapReason.LIFETIME)


def known(facts: SessionReport, *, last_seen_at: datetime | None, first: datetime = SEEN) -> KnownSession:
    """A session without a timeline."""
    return KnownSession(
        facts=facts, last_seen_at=last_seen_at, fixed=facts.fixed._replace(observed_at=first, reported_at=first)
    )


HELD = known(REPORT, last_seen_at=SEEN)


# Each pair differs in one field, and every later field of the order favours the lesser one.
@pytest.mark.parametrize(
    ("lesser", "greater"),
    [
        ({"stopping_at": SEEN, "observed_at": SEEN + HOUR}, {"stopped_at": SEEN}),
        ({"observed_at": SEEN + HOUR}, {"stopping_at": SEEN}),
        ({"stopped_at": SEEN, "observed_at": SEEN + HOUR}, {"stopped_at": START, "stopping_at": START}),
        ({"created_at": START}, {"observed_at": SEEN + TICK}),
        ({"stopped_at": SEEN, "created_at": START}, {"stopped_at": SEEN + TICK}),
        ({"stopping_at": SEEN, "created_at": START}, {"stopping_at": SEEN + TICK}),
        ({"started_at": SEEN}, {"created_at": START}),
        ({"created_at": START, "started_at": SEEN}, {"created_at": START + TICK}),
        ({"workspace_class": "z"}, {"workspace_class": "a", "started_at": START + TICK}),
        ({"workspace_class": "a", "user_id": HIGH}, {"workspace_class": "b", "user_id": LOW}),
        ({"user_id": LOW, "workspace_id": "b"}, {"user_id": HIGH, "workspace_id": "a"}),
        ({"workspace_id": "a"}, {"workspace_id": "b"}),
    ],
)
def test_reports_have_a_total_order(lesser: dict[str, Any], greater: dict[str, Any]) -> None:
    assert rank(replace(REPORT, **lesser)) < rank(replace(REPORT, **greater))


def test_reports_that_differ_in_nothing_that_is_kept_are_equal() -> None:
    assert rank(REPORT) == rank(replace(REPORT, index=7, source="eu"))


def test_a_new_session_has_the_greatest_report_and_the_latest_proof_of_life() -> None:
    stopped = replace(REPORT, stopped_at=START, observed_at=SEEN + HOUR)
    earlier = replace(REPORT, observed_at=SEEN - HOUR)
    assert merge(None, [earlier, REPORT]) == known(REPORT, last_seen_at=SEEN, first=SEEN - HOUR)
    assert merge(None, [earlier, stopped, REPORT]) == known(stopped, last_seen_at=SEEN, first=SEEN - HOUR)
    assert merge(None, [stopped]) == known(stopped, last_seen_at=None, first=SEEN + HOUR)


def test_a_snapshot_proves_life_of_the_running_sessions_that_it_lists() -> None:
    assert merge(None, [REPORT], seen_at=SEEN + HOUR).last_seen_at == SEEN + HOUR
    assert merge(None, [REPORT], seen_at=SEEN - HOUR).last_seen_at == SEEN
    assert merge(None, [replace(REPORT, stopped_at=START)], seen_at=SEEN).last_seen_at is None
    stopping = replace(REPORT, stopping_at=START)
    assert merge(None, [stopping]).last_seen_at == SEEN


def test_a_greater_report_holds_and_a_lesser_or_equal_one_changes_nothing() -> None:
    later = replace(REPORT, observed_at=SEEN + TICK)
    assert merge(HELD, [later]) == known(later, last_seen_at=SEEN + TICK)
    assert merge(HELD, [REPORT]) is HELD


def test_a_lesser_report_may_have_been_the_first_one() -> None:
    earlier = replace(REPORT, observed_at=SEEN - TICK)
    assert merge(HELD, [earlier]) == replace(HELD, fixed=earlier.fixed)


def test_what_says_the_present_is_never_the_first_to_say_the_start() -> None:
    row = replace(REPORT, observed_at=SEEN - TICK, present=True)
    first = FixedFacts(SEEN - TICK, SEEN, REPORT.workspace_class, REPORT.user_id)
    assert merge(HELD, [row]).fixed == first
    inferred = merge(None, [row])
    assert inferred.fixed == first._replace(reported_at=NEVER)
    assert merge(inferred, [REPORT]).fixed == first
    assert merge(inferred, [replace(row, observed_at=SEEN)]).fixed == inferred.fixed


@pytest.mark.parametrize("told", [{"workspace_class": "z"}, {"user_id": LOW}])
def test_a_batch_that_contradicts_the_start_changes_nothing(told: dict[str, Any]) -> None:
    assert merge(HELD, [replace(REPORT, observed_at=SEEN + TICK, stopped_at=SEEN, **told)]) is HELD


def test_timelines_are_joined_whatever_report_is_greater() -> None:
    early, late = (
        Segment(begins_at=START, observed_at=at, workspace_class="z", state=State.SUSPENDED)
        for at in (SEEN - TICK, SEEN + TICK)
    )
    one = merge(HELD, [replace(REPORT, observed_at=SEEN - TICK, segments=(early,))])
    assert (one.facts, one.timeline) == (REPORT, (early,))
    both = merge(one, [replace(REPORT, observed_at=SEEN + TICK, segments=(late,))])
    assert both.timeline == (late,)
    assert merge(both, [replace(REPORT, observed_at=SEEN - TICK, segments=(early,))]) is both


def test_a_stop_cannot_be_taken_back_and_nothing_lives_after_it() -> None:
    stopped = merge(HELD, [replace(REPORT, stopped_at=SEEN)])
    assert (stopped.facts.stopped_at, stopped.last_seen_at) == (SEEN, SEEN)
    assert merge(stopped, [replace(REPORT, observed_at=SEEN + HOUR)]) is stopped
    again = replace(REPORT, stopped_at=START, observed_at=SEEN + HOUR)
    assert merge(stopped, [again]) == known(again, last_seen_at=SEEN)


def test_a_sign_of_life_that_is_no_greater_report_moves_the_proof_of_life_only() -> None:
    stopping = known(replace(REPORT, stopping_at=START), last_seen_at=SEEN)
    assert merge(stopping, [replace(REPORT, observed_at=SEEN + TICK)]) == replace(stopping, last_seen_at=SEEN + TICK)
    assert merge(stopping, [REPORT]) is stopping


def test_a_greater_report_of_an_earlier_observation_takes_no_proof_of_life_back() -> None:
    stopping = replace(REPORT, stopping_at=START, observed_at=SEEN - HOUR)
    assert merge(HELD, [stopping]) == known(stopping, last_seen_at=SEEN, first=SEEN - HOUR)
    unseen = known(replace(REPORT, stopped_at=START), last_seen_at=None)
    stopped = replace(REPORT, stopped_at=SEEN)
    assert merge(unseen, [stopped, REPORT]) == known(stopped, last_seen_at=SEEN)


@pytest.mark.parametrize(("cap", "kept"), [(HEARTBEAT, None), (LIFETIME, LIFETIME), (None, None)])
def test_a_later_sign_of_life_lifts_the_heartbeats_cap(cap: Cap | None, kept: Cap | None) -> None:
    held = replace(HELD, cap=cap)
    assert merge(held, [replace(REPORT, observed_at=SEEN + TICK)]).cap == kept
    # Greater by its workspace, with no newer proof of life.
    assert merge(held, [replace(REPORT, workspace_id="z")]).cap == cap


@pytest.mark.parametrize("end", ["stopping_at", "stopped_at"])
@pytest.mark.parametrize("cap", [HEARTBEAT, LIFETIME])
def test_a_reported_end_lifts_every_cap(end: str, cap: Cap) -> None:
    ended: dict[str, Any] = {end: SEEN}
    assert merge(replace(HELD, cap=cap), [replace(REPORT, **ended)]).cap is None


def test_any_order_and_any_batches_end_in_the_same_session() -> None:
    reports = [REPORT, replace(REPORT, observed_at=SEEN + HOUR), replace(REPORT, stopped_at=SEEN, created_at=START)]
    whole = merge(None, reports)
    assert merge(None, reports[::-1]) == whole
    assert merge(merge(None, reports[1:2]), [reports[0], reports[2]]) == whole
    assert all(rank(lesser) < rank(greater) for lesser, greater in pairwise(sorted(reports, key=rank)))

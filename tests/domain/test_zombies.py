from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.factories import DAY, HOUR, START
from usage_tasks.domain.sessions import CapReason
from usage_tasks.domain.zombies import (
    Cap,
    CapPolicy,
    SessionLife,
    billed_until,
    final_since,
    inferred_stop,
    judge_cap,
    release_cap,
)

TICK = timedelta(microseconds=1)
GRACE, LIFETIME = HOUR, DAY
POLICY = CapPolicy(grace=GRACE, lifetime=LIFETIME)
ONLY_GRACE, ONLY_LIFETIME = replace(POLICY, lifetime=None), replace(POLICY, grace=None)
SEEN = START + 3 * HOUR
LIFE = SessionLife(started_at=START, last_seen_at=SEEN)
HEARTBEAT = Cap(at=SEEN + GRACE, reason=CapReason.HEARTBEAT)
OLD = Cap(at=START + LIFETIME, reason=CapReason.LIFETIME)
LATER = START + 9 * DAY


def capped(life: SessionLife, at: datetime = LATER, policy: CapPolicy = POLICY) -> Cap | None:
    return judge_cap(life, at=at, policy=policy)


@pytest.mark.parametrize(
    ("life", "stop"),
    [
        (LIFE, None),
        (replace(LIFE, missed_at=SEEN), None),
        (replace(LIFE, missed_at=SEEN + TICK), SEEN),
        (replace(LIFE, missed_at=SEEN + TICK, stopping_at=START), SEEN),
        (replace(LIFE, missed_at=SEEN + TICK, stopped_at=START), None),
        (SessionLife(started_at=START, last_seen_at=None, stopped_at=SEEN, missed_at=LATER), None),
        (SessionLife(started_at=START, last_seen_at=None, missed_at=LATER), None),
    ],
)
def test_a_session_that_a_later_snapshot_misses_stopped_when_it_was_last_seen(
    life: SessionLife, stop: datetime | None
) -> None:
    assert inferred_stop(life) == stop


def test_a_session_is_final_since_its_reported_stop_else_since_its_inferred_one() -> None:
    missed = replace(LIFE, missed_at=LATER)
    assert final_since(LIFE) is None
    assert final_since(replace(LIFE, stopping_at=START)) is None
    assert final_since(missed) == SEEN
    assert final_since(replace(missed, stopped_at=LATER)) == LATER


@pytest.mark.parametrize(
    ("facts", "until"),
    [
        ({}, None),
        ({"stopping_at": START, "stopped_at": SEEN}, START),
        ({"stopping_at": START, "missed_at": LATER}, START),
        ({"stopped_at": SEEN}, SEEN),
        ({"missed_at": LATER}, SEEN),
        ({"cap": HEARTBEAT}, HEARTBEAT.at),
        ({"missed_at": LATER, "cap": HEARTBEAT}, SEEN),
        ({"missed_at": LATER, "cap": Cap(at=START, reason=CapReason.LIFETIME)}, START),
    ],
)
def test_the_bill_ends_with_a_reported_end_else_with_the_earlier_of_inferred_stop_and_cap(
    facts: dict[str, datetime | Cap], until: datetime | None
) -> None:
    assert billed_until(replace(LIFE, **facts)) == until  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", [POLICY, ONLY_GRACE])
def test_a_session_is_capped_once_its_grace_is_past(policy: CapPolicy) -> None:
    assert capped(LIFE, SEEN + GRACE, policy) is None
    assert capped(LIFE, SEEN + GRACE + TICK, policy) == HEARTBEAT


def test_a_session_is_capped_once_its_lifetime_is_past() -> None:
    alive = replace(LIFE, last_seen_at=LATER)
    for life, policy in ((LIFE, ONLY_LIFETIME), (alive, POLICY), (replace(LIFE, heartbeat_released=True), POLICY)):
        assert capped(life, START + LIFETIME, policy) is None
        assert capped(life, START + LIFETIME + TICK, policy) == OLD


def test_the_earlier_bound_caps_and_of_equal_ones_the_lifetime_is_the_reason() -> None:
    seen = START + LIFETIME - GRACE
    assert capped(LIFE) == HEARTBEAT
    assert capped(replace(LIFE, last_seen_at=seen)) == OLD
    assert capped(replace(LIFE, last_seen_at=seen + TICK)) == OLD
    assert capped(replace(LIFE, last_seen_at=seen - TICK)) == Cap(at=OLD.at - TICK, reason=CapReason.HEARTBEAT)


def test_a_bound_that_is_off_or_released_caps_nothing() -> None:
    assert capped(LIFE, policy=CapPolicy(grace=None, lifetime=None)) is None
    assert capped(replace(LIFE, heartbeat_released=True), policy=ONLY_GRACE) is None
    assert capped(replace(LIFE, lifetime_released=True), policy=ONLY_LIFETIME) is None
    assert capped(replace(LIFE, heartbeat_released=True, lifetime_released=True)) is None
    assert capped(replace(LIFE, lifetime_released=True)) == HEARTBEAT
    assert capped(SessionLife(started_at=START, last_seen_at=None), policy=ONLY_GRACE) is None


@pytest.mark.parametrize("at", [START, SEEN + GRACE, LATER])
def test_a_cap_stands_while_its_bound_is_the_same(at: datetime) -> None:
    assert capped(replace(LIFE, cap=HEARTBEAT), at) == HEARTBEAT


def test_a_cap_whose_bound_changed_moves_where_the_new_one_is_past_and_else_goes() -> None:
    life = replace(LIFE, cap=Cap(at=SEEN, reason=CapReason.HEARTBEAT))
    assert capped(life) == HEARTBEAT
    assert capped(life, HEARTBEAT.at) is None
    assert capped(life, policy=CapPolicy(grace=None, lifetime=None)) is None
    assert capped(replace(life, cap=Cap(at=HEARTBEAT.at, reason=CapReason.LIFETIME))) == HEARTBEAT


@pytest.mark.parametrize("end", ["stopping_at", "stopped_at"])
def test_a_reported_end_needs_no_cap(end: str) -> None:
    facts = {end: START}
    assert capped(replace(LIFE, **facts)) is None  # type: ignore[arg-type]


def test_an_inferred_stop_is_capped_by_a_bound_before_it_only() -> None:
    missed = replace(LIFE, missed_at=LATER)
    assert capped(missed, policy=ONLY_GRACE) is None
    for beside, cap in ((-TICK, None), (0 * TICK, None), (TICK, OLD)):
        assert capped(replace(missed, last_seen_at=OLD.at + beside)) == cap


def test_a_posted_session_keeps_or_moves_its_cap_and_gets_no_new_one() -> None:
    posted = replace(LIFE, last_seen_at=OLD.at + TICK, missed_at=LATER, posted=True)
    assert capped(posted) is None
    assert capped(replace(posted, cap=HEARTBEAT)) == OLD


def test_a_release_lifts_the_cap_and_its_reason_caps_no_more() -> None:
    assert release_cap(LIFE) == LIFE
    heartbeat, lifetime = replace(LIFE, heartbeat_released=True), replace(LIFE, lifetime_released=True)
    both = replace(heartbeat, lifetime_released=True)
    assert release_cap(replace(LIFE, cap=HEARTBEAT)) == heartbeat
    assert release_cap(replace(LIFE, cap=OLD)) == lifetime
    assert release_cap(replace(heartbeat, cap=OLD)) == both
    assert release_cap(replace(lifetime, cap=HEARTBEAT)) == both

from datetime import UTC, datetime, timedelta

import pytest

from usage_tasks.domain.meter_timestamps import WAIT_MAX, WAIT_UNKNOWN, is_too_old, wait_until_taken

STRIPE = datetime(2027, 3, 1, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("ahead", "minutes"),
    [(-36 * DAY, 0), (0 * MINUTE, 0), (5 * MINUTE, 0), (6 * MINUTE, 1), (20 * MINUTE, 15), (59 * MINUTE, 54)],
)
def test_a_report_waits_until_it_is_five_minutes_ahead_of_stripes_clock(ahead: timedelta, minutes: int) -> None:
    wait = wait_until_taken(STRIPE + ahead, stripe_at=STRIPE)
    assert wait == (minutes * MINUTE + timedelta(seconds=5) if minutes else timedelta(0))


def test_a_wait_is_bounded_and_known_without_stripes_clock() -> None:
    assert wait_until_taken(STRIPE + 400 * DAY, stripe_at=STRIPE) == WAIT_MAX
    assert wait_until_taken(STRIPE, stripe_at=None) == WAIT_UNKNOWN


@pytest.mark.parametrize(("age", "old"), [(-DAY, False), (0 * DAY, False), (17 * DAY, False), (18 * DAY, True)])
def test_what_is_refused_is_early_or_old_by_the_middle_between_both(age: timedelta, *, old: bool) -> None:
    assert is_too_old(STRIPE - age, stripe_at=STRIPE) is old
    assert not is_too_old(STRIPE - age, stripe_at=None)

"""The instants that a caller may ask for, and when an act takes effect."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from tests.factories import DAY, START
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.instants import instant_to_act, instant_to_read

NOW = START + 500 * DAY
MINUTES = timedelta(minutes=5)
SECOND = timedelta(seconds=1)
Judge = Callable[..., datetime]


@pytest.mark.parametrize("judge", [instant_to_read, instant_to_act])
@pytest.mark.parametrize("by_user", [True, False])
def test_an_instant_a_little_ahead_is_now_and_a_later_one_is_refused(judge: Judge, *, by_user: bool) -> None:
    assert judge(NOW, now=NOW, by_user=by_user) == NOW
    assert judge(NOW + SECOND, now=NOW, by_user=by_user) == NOW
    assert judge(NOW + MINUTES, now=NOW, by_user=by_user) == NOW
    with pytest.raises(InvalidInputError, match=r"`at`: must be at or before now, .* \(got .*\)"):
        judge(NOW + MINUTES + SECOND, now=NOW, by_user=by_user)


@pytest.mark.parametrize("judge", [instant_to_read, instant_to_act])
def test_a_service_may_go_back_as_far_as_it_likes(judge: Judge) -> None:
    assert judge(START - 20_000 * DAY, now=NOW, by_user=False) == START - 20_000 * DAY


def test_a_user_looks_back_a_year() -> None:
    assert instant_to_read(NOW - 366 * DAY, now=NOW, by_user=True) == NOW - 366 * DAY
    with pytest.raises(InvalidInputError, match=r"must be at or after .* for a user \(only a service"):
        instant_to_read(NOW - 366 * DAY - SECOND, now=NOW, by_user=True)


def test_a_users_act_takes_effect_now_and_is_a_day_old_at_most() -> None:
    assert instant_to_act(NOW - DAY, now=NOW, by_user=True) == NOW
    with pytest.raises(InvalidInputError, match=r"must be at or after .* for a user \(only a service"):
        instant_to_act(NOW - DAY - SECOND, now=NOW, by_user=True)

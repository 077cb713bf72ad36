"""The instants that a process works with."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.database_clock import shift_database_clock
from tests.factories import START, SYSTEM, call, team
from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.usage import accounts

USER = Actor("user:11111111-1111-4111-8111-111111111111")
MINUTE = timedelta(minutes=1)


def test_with_a_test_clock_any_instant_may_be_asked_for(rt: Runtime) -> None:
    future = datetime.now(UTC) + timedelta(days=3650)
    assert rt.settings.test_clock
    assert rt.instant(future) == future
    assert rt.instant(START, USER) == rt.effective_instant(START, USER) == rt.settling_instant(START, USER) == START


def test_without_one_an_instant_that_has_not_come_is_refused(real_rt: Runtime) -> None:
    future = datetime.now(UTC) + timedelta(days=3650)
    with pytest.raises(InvalidInputError, match=r"`at`: must be at or before now, "):
        call(accounts.get_cost_center, attribution_id=team(), actor="service:tests", at=future.isoformat())
    assert real_rt.instant(START) == START


@pytest.mark.holds("clocks.now")
@pytest.mark.parametrize("days", [-62, 62])
def test_now_is_the_databases_and_not_the_hosts(real_rt: Runtime, days: int) -> None:
    shift_database_clock(real_rt, timedelta(days=days))
    expected = datetime.now(UTC) + timedelta(days=days)
    assert abs(real_rt.now() - expected) < MINUTE
    assert real_rt.now().utcoffset() == timedelta(0)
    assert abs(real_rt.instant(expected + MINUTE) - expected) < MINUTE


def test_a_user_acts_and_settles_now_and_a_service_when_it_says(real_rt: Runtime) -> None:
    asked = real_rt.now() - timedelta(hours=3)
    assert real_rt.instant(asked, USER) == asked
    assert real_rt.effective_instant(asked, USER) - asked >= timedelta(hours=3)
    assert real_rt.settling_instant(asked, USER) - asked >= timedelta(hours=3)
    assert real_rt.effective_instant(asked, SYSTEM) == real_rt.settling_instant(asked, SYSTEM) == asked
    assert real_rt.arrival(asked) - asked >= timedelta(hours=3)

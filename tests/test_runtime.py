"""Which instants a caller may ask for."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.factories import START, call, team
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.tasks.usage import accounts


def test_without_a_test_clock_an_instant_that_has_not_come_is_refused(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rt.settings.test_clock
    monkeypatch.setenv("USAGE_TEST_CLOCK", "false")
    runtime.cache_clear()
    future = datetime.now(UTC) + timedelta(days=3650)
    with pytest.raises(InvalidInputError, match=r"at: .* is not allowed: now, "):
        call(accounts.get_cost_center, attribution_id=team(), actor="service:tests", at=future.isoformat())
    assert runtime().instant(START) == START
    runtime().database.dispose()
    assert rt.instant(future) == future

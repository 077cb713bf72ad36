from datetime import UTC, datetime

import pytest

from usage_tasks.domain.idempotency import first_key, fresh_key, timed_key


def test_fresh_keys_follow_one_another_and_lead_back() -> None:
    keys = ["customer:team:1"]
    for _ in range(12):
        keys.append(fresh_key(keys[-1]))
    assert keys[1:3] == ["customer:team:1:again:2", "customer:team:1:again:3"]
    assert len(set(keys)) == len(keys)
    assert {first_key(key) for key in keys} == {keys[0]}


@pytest.mark.parametrize("key", ["x", "x:again:7"])
def test_a_timed_key_leads_back_too(key: str) -> None:
    timed = timed_key(key, datetime(2026, 1, 1, tzinfo=UTC))
    assert (timed, first_key(timed)) == ("x:again:1767225600000", "x")

import json
from contextlib import closing, suppress
from datetime import datetime
from queue import Empty
from typing import Any

import pytest
import redis
from kombu import Connection
from prometheus_client import REGISTRY
from sqlalchemy import text

from tests.factories import DAY, HOUR, START, call, record, session_report, stopped_report, team, used
from usage_tasks.coordination.clock import TestClock
from usage_tasks.coordination.published_balances import BALANCE
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.tasks import maintenance
from usage_tasks.tasks.task import ArgumentsError
from usage_tasks.tasks.usage import ledger, limits

KEY_PREFIX = f"usage:{BALANCE}"

ASKED = {"attribution_id": team(), "actor": "service:scheduler"}
NOW = START + DAY


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def shown(client: "redis.Redis", account: str = team()) -> Any:
    return client.hgetall(KEY_PREFIX + account)


def heard(rt: Runtime) -> list[Any]:
    """Return the messages that a platform with nothing but Kombu takes from the queue `server`."""
    options = {"global_keyprefix": "usage:"}
    messages = []
    with (
        Connection(rt.settings.redis_url, transport_options=options) as broker,
        closing(broker.SimpleQueue("server", no_ack=True)) as queue,
        suppress(Empty),
    ):
        while True:
            messages.append(queue.get_nowait())
    return messages


def test_a_scheduler_asks_before_it_starts_a_session(rt: Runtime) -> None:
    with rt.transaction() as connection:
        record(connection, session_report(workspace_class="xlarge"))
    answer = call(limits.check_entitlement, **ASKED, at=(START + HOUR).isoformat())
    assert answer == {
        "may_start": True,
        "reason": "ok",
        "balance_cents": 6000,
        "remaining_cents": 44_000,
        "spending_limit": 500,
        "hard_limit_cents": 50_000,
        "exhausted_at": "2026-01-01T08:20:00Z",
    }
    assert json.loads(json.dumps(answer)) == answer


def test_the_grace_and_the_thresholds_of_the_settings_hold(
    environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    environment["USAGE_HARD_LIMIT_GRACE__CREDITS"] = "50"
    environment["USAGE_LIMIT_THRESHOLDS"] = "[10, 20, 30]"
    rt: Runtime = request.getfixturevalue("rt")
    with rt.transaction() as connection:
        used(connection, team(), 50_000, at=NOW)
    at = NOW.isoformat()
    assert call(limits.check_entitlement, **ASKED, at=at)["reason"] == "limit_reached_within_grace"
    done = call(ledger.reconcile_usage, at=at)
    assert (done["thresholds_reached"], done["limits_reached"], done["hard_limits_reached"]) == (3, 1, 0)
    with rt.transaction() as connection:
        used(connection, team(), 5_000, at=NOW)
    assert call(ledger.reconcile_usage, at=at)["hard_limits_reached"] == 1


def test_thresholds_of_an_account_are_set_and_given_back(rt: Runtime) -> None:
    at = START.isoformat()
    own = call(limits.set_limit_thresholds, **ASKED, thresholds=[90, 10], at=at)
    assert own == {"attribution_id": team(), "thresholds": [10, 90]}
    given_back = call(limits.set_limit_thresholds, **ASKED, thresholds=None, at=at)
    assert given_back == {"attribution_id": team(), "thresholds": [50, 80, 100]}


@pytest.mark.parametrize("thresholds", [[0], [1001], ["50"], [True], list(range(1, 12)), 50, "x"])
def test_bad_thresholds_are_refused_by_name(rt: Runtime, thresholds: object) -> None:
    with pytest.raises(ArgumentsError, match="thresholds"):
        call(limits.set_limit_thresholds, **ASKED, thresholds=thresholds, at=START.isoformat())


def test_thresholds_may_not_be_left_out(rt: Runtime) -> None:
    with pytest.raises(ArgumentsError, match="`thresholds`: must be given"):
        call(limits.set_limit_thresholds, **ASKED, at=START.isoformat())


def test_the_platform_hears_of_each_crossing_on_its_queue(rt: Runtime) -> None:
    with rt.transaction() as connection:
        used(connection, team(), 50_000, at=NOW)
    call(ledger.reconcile_usage, at=NOW.isoformat())
    call(ledger.reconcile_usage, at=(NOW + HOUR).isoformat())
    assert call(maintenance.dispatch_outbox)["dispatched"] == 4
    assert call(maintenance.dispatch_outbox)["dispatched"] == 0
    messages = heard(rt)
    told = [(message.headers["task"], message.payload[1]["percent"]) for message in messages]
    assert told == [
        ("server.usage_threshold_reached", 50),
        ("server.usage_threshold_reached", 80),
        ("server.usage_limit_reached", 100),
        ("server.usage_hard_limit_reached", 100),
    ]
    assert len({message.headers["id"] for message in messages}) == 4


def test_the_ledger_job_shows_the_present_balances(rt: Runtime) -> None:
    TestClock(rt.redis).advance(NOW)
    with rt.transaction() as connection:
        record(connection, session_report(workspace_class="xlarge"))
    before = metric("usage_balance_snapshot_runs_total", outcome="written")
    done = call(ledger.reconcile_usage)
    assert (done["snapshot"], done["snapshots_written"]) == ("written", 1)
    assert shown(rt.redis)[b"balance_cents"] == b"144000"
    assert metric("usage_balance_snapshot_runs_total", outcome="written") == before + 1
    written_at = metric("usage_balance_snapshot_written_timestamp_seconds")
    assert abs(datetime.now().astimezone().timestamp() - written_at) < 60


def test_a_run_for_another_instant_leaves_the_present_balances_alone(rt: Runtime) -> None:
    TestClock(rt.redis).advance(NOW)
    with rt.transaction() as connection:
        record(connection, session_report(workspace_class="xlarge"))
    call(ledger.reconcile_usage)
    done = call(ledger.reconcile_usage, at=(START + HOUR).isoformat())
    assert (done["snapshot"], done["snapshots_written"]) == ("skipped", 0)
    assert shown(rt.redis)[b"as_of"] == NOW.isoformat().encode()


@pytest.mark.holds("limits.redis-away")
def test_a_flushed_redis_is_whole_after_the_next_tick(rt: Runtime) -> None:
    with rt.transaction() as connection:
        record(connection, stopped_report(), stopped_report(attribution_id=team("other")))
    for _ in range(2):
        rt.redis.flushdb()
        TestClock(rt.redis).advance(NOW)
        assert call(ledger.reconcile_usage)["snapshots_written"] == 2
        assert shown(rt.redis)[b"balance_cents"] == shown(rt.redis, team("other"))[b"balance_cents"] == b"100"


@pytest.mark.holds("limits.redis-away")
def test_without_redis_the_money_is_posted_and_announced_all_the_same(
    environment: dict[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = environment["REDIS_URL"]
    environment |= {"REDIS_URL": "redis://127.0.0.1:1/0", "USAGE_TEST_CLOCK": "false"}
    rt: Runtime = request.getfixturevalue("rt")
    now = datetime.now().astimezone()
    with rt.transaction() as connection:
        reports = [stopped_report(5 * HOUR, started_at=now - 6 * HOUR, workspace_class="xlarge") for _ in range(2)]
        record(connection, *reports, at=now)
    failed = metric("usage_balance_snapshot_runs_total", outcome="failed")
    done = call(ledger.reconcile_usage)
    assert (done["entries"], done["credit_cents"], done["limits_reached"]) == (2, 60_000, 1)
    assert (done["snapshot"], done["snapshots_written"]) == ("failed", 0)
    assert metric("usage_balance_snapshot_runs_total", outcome="failed") == failed + 1
    with rt.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM ledger_entry")).scalar_one() == 2
    rt.database.dispose()
    monkeypatch.setenv("REDIS_URL", there)
    runtime.cache_clear()
    healed = call(ledger.reconcile_usage)
    assert (healed["entries"], healed["snapshot"], healed["snapshots_written"]) == (0, "written", 1)
    assert shown(runtime().redis)[b"balance_cents"] == b"60000"
    runtime().database.dispose()

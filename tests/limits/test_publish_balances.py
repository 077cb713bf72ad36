from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pytest
import redis
from sqlalchemy import text

from tests.factories import DAY, HOUR, LIMITS, START, SYSTEM, record, session_report, stopped_report, team
from usage_tasks.coordination.published_balances import BALANCE, MARKER, BalanceSnapshots
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.limits import HardLimitGrace
from usage_tasks.services.ledger.cost_center import open_accounts
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.limits.publish_balances import OVERLAP, PAGE, SnapshotRun, write_snapshots
from usage_tasks.storage.engine import Database
from usage_tasks.storage.pricing.prices import publish_prices

KEY_PREFIX = f"usage:{BALANCE}"
MARKER_KEY = f"usage:{MARKER}"

GRACE: Final = HardLimitGrace(percent=10)
AT: Final = START + DAY
AGED: Final = """
    ALTER TABLE ledger_entry DISABLE TRIGGER ALL;
    UPDATE ledger_entry SET posted_at = posted_at - interval '1 hour';
    ALTER TABLE ledger_entry ENABLE TRIGGER ALL;
    UPDATE cost_center SET created_at = created_at - interval '1 hour'
"""


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    opened = redis.Redis.from_url(redis_url)
    yield opened
    opened.close()


def shown(client: "redis.Redis", account: str = team()) -> dict[str, str]:
    """Return the fields that another service reads: one HGETALL."""
    held: Any = client.hgetall(KEY_PREFIX + account)
    return {key.decode(): value.decode() for key, value in held.items()}


def write(
    database: Database,
    client: "redis.Redis",
    *,
    at: datetime = AT,
    period: timedelta | None = None,
    limit: int = PAGE,
) -> SnapshotRun:
    snapshots = BalanceSnapshots(client, period=period)
    return write_snapshots(database.transaction, snapshots, grace=GRACE, at=at, limit=limit)


def open_quiet(database: Database, *names: object) -> None:
    """Open accounts without a change for longer than any transaction may take."""
    with database.transaction() as connection:
        accounts = [team(name) for name in names]
        open_accounts(connection, accounts, limits=LIMITS, at=START, actor=SYSTEM)
        connection.execute(text(AGED))


@pytest.mark.holds("lesson.stale-limits")
def test_a_snapshot_is_one_hash_of_texts(database: Database, client: "redis.Redis") -> None:
    with database.transaction() as connection:
        record(connection, session_report(), session_report(workspace_class="large"))
        record(connection, session_report(stopping_at=START + HOUR), session_report(started_at=AT + HOUR))
        publish_prices(connection, {"small": Decimal("0.25")}, at=AT, actor=SYSTEM)
    assert write(database, client) == SnapshotRun(written=1, full=True)
    balance = 14_400 + 72_000 + 600
    assert shown(client) == {
        "balance_cents": str(balance),
        "spending_limit": "500",
        "remaining_cents": str(50_000 - balance),
        "hard_limit_cents": "55000",
        "limit_state": "reached",
        "burn_cents_per_hour": "4500",
        "as_of": "2026-01-02T00:00:00+00:00",
    }


def test_a_burn_rate_is_exact(database: Database, client: "redis.Redis") -> None:
    with database.transaction() as connection:
        record(connection, session_report(workspace_class="default"))
    write(database, client)
    assert shown(client)["burn_cents_per_hour"] == "1000.0000002"


def test_after_the_first_run_only_what_changed_or_runs_is_written(database: Database, client: "redis.Redis") -> None:
    open_quiet(database, *range(5))
    assert write(database, client) == SnapshotRun(written=5, full=True)
    assert write(database, client) == SnapshotRun(written=0, full=False)
    with database.transaction() as connection:
        record(connection, session_report(attribution_id=team(1), workspace_class="xlarge"))
        record(connection, stopped_report(attribution_id=team(2), workspace_class="xlarge"))
        post_batch(connection, at=AT)
    assert write(database, client, at=AT + HOUR) == SnapshotRun(written=2, full=False)
    assert shown(client, team(1))["balance_cents"] == str(25 * 6000)
    assert (shown(client, team(2))["balance_cents"], shown(client, team(2))["burn_cents_per_hour"]) == ("1000", "0")
    assert shown(client, team(3))["as_of"] == AT.isoformat()
    open_quiet(database, "new")
    with database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE cost_center SET spending_limit = 7, created_at = clock_timestamp() WHERE attribution_id = :new"
            ),
            {"new": team("new")},
        )
    assert write(database, client).written == 2  # the running ones, and the new one
    assert shown(client, team("new"))["spending_limit"] == "7"


def test_what_commits_later_than_it_was_stamped_is_not_missed(database: Database, client: "redis.Redis") -> None:
    open_quiet(database, "slow")
    with database.transaction() as slow:
        record(slow, stopped_report(attribution_id=team("slow")))
        post_batch(slow, at=AT)
        assert write(database, client).written == 1
        assert shown(client, team("slow"))["balance_cents"] == "0"
    assert write(database, client) == SnapshotRun(written=1, full=False)
    assert shown(client, team("slow"))["balance_cents"] == "100"
    with database.transaction() as connection:
        longest = connection.execute(text("SHOW statement_timeout")).scalar_one()
    assert longest == "4min"
    assert timedelta(minutes=4) < OVERLAP


def test_a_flushed_redis_is_whole_after_the_next_run(database: Database, client: "redis.Redis") -> None:
    open_quiet(database, *range(7))
    write(database, client)
    client.flushdb()
    assert shown(client, team(3)) == {}
    assert write(database, client) == SnapshotRun(written=7, full=True)
    assert all(shown(client, team(number))["balance_cents"] == "0" for number in range(7))
    assert write(database, client).full is False


def test_a_first_run_that_dies_in_the_middle_is_begun_again(database: Database, client: "redis.Redis") -> None:
    open_quiet(database, *range(4))
    torn = sorted(team(number) for number in range(4))[2]
    client.set(KEY_PREFIX + torn, "somebody else's")
    for _ in range(2):
        with pytest.raises(RetryableError, match="WRONGTYPE"):
            write(database, client, limit=1)
    client.delete(KEY_PREFIX + torn)
    assert write(database, client) == SnapshotRun(written=4, full=True)


@pytest.mark.parametrize("full", [True, False])
def test_a_redis_that_is_flushed_in_the_middle_of_a_run_is_whole_after_the_next(
    database: Database, client: "redis.Redis", *, full: bool
) -> None:
    open_quiet(database, *range(5))
    if not full:
        write(database, client)
        with database.transaction() as connection:
            record(connection, *(session_report(attribution_id=team(number)) for number in range(5)))

    class Flushed(BalanceSnapshots):
        """A store whose Redis loses everything after the second page."""

        pages = 0

        def write(self, snapshots: object) -> None:
            super().write(snapshots)  # type: ignore[arg-type]  # as given
            self.pages += 1
            if self.pages == 2:
                client.flushdb()

    torn = Flushed(client, period=None)
    assert write_snapshots(database.transaction, torn, grace=GRACE, at=AT, limit=2).full is full
    assert write(database, client) == SnapshotRun(written=5, full=True)
    assert all(shown(client, team(number)) for number in range(5))


def test_pages_hold_every_account_once(database: Database, client: "redis.Redis") -> None:
    open_quiet(database, *range(9))
    assert write(database, client, limit=3).written == 9
    assert len(client.keys(KEY_PREFIX + "*")) == 9


def test_a_dead_systems_snapshots_go_away(database: Database, client: "redis.Redis") -> None:
    open_quiet(database, "x")
    for period, hours in [(None, 1), (timedelta(minutes=1), 1), (timedelta(hours=24), 96)]:
        client.flushdb()
        write(database, client, period=period)
        expiry = client.ttl(KEY_PREFIX + team("x"))
        assert hours * 3600 - 5 <= expiry <= hours * 3600
        # A full rewrite is due, and a tick comes between, before the first of them expires.
        assert 0 < client.ttl(MARKER_KEY) <= hours * 1800


def test_runs_of_changes_do_not_put_off_the_next_whole_one(database: Database, client: "redis.Redis") -> None:
    open_quiet(database, "x")
    write(database, client)
    client.expire(MARKER_KEY, 100)
    assert write(database, client).full is False
    assert 0 < client.ttl(MARKER_KEY) <= 100
    client.delete(MARKER_KEY)
    assert write(database, client) == SnapshotRun(written=1, full=True)


def test_a_redis_that_refuses_connections_is_a_retryable_error(database: Database) -> None:
    open_quiet(database, "x")
    away = redis.Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=1)
    with pytest.raises(RetryableError, match="redis: ConnectionError"):
        write(database, away)
    away.close()


def test_a_redis_that_fails_in_the_middle_is_whole_after_the_next_run(
    database: Database, client: "redis.Redis", redis_url: str
) -> None:
    open_quiet(database, *range(4))
    write(database, client)
    with database.transaction() as connection:
        record(connection, *(stopped_report(attribution_id=team(number)) for number in range(4)))
        post_batch(connection, at=AT)
    # The real thing: a key of another type makes Redis refuse the page that holds it.
    torn = sorted(team(number) for number in range(4))[2]
    client.delete(KEY_PREFIX + torn)
    client.set(KEY_PREFIX + torn, "somebody else's")
    with pytest.raises(RetryableError, match="WRONGTYPE"):
        write(database, client, limit=1)
    client.delete(KEY_PREFIX + torn)
    assert write(database, client) == SnapshotRun(written=4, full=False)
    assert all(shown(client, team(number))["balance_cents"] == "100" for number in range(4))


def test_a_marker_of_a_database_that_was_set_back_has_everything_written_again(
    database: Database, client: "redis.Redis"
) -> None:
    open_quiet(database, "one", "two")
    assert write(database, client) == SnapshotRun(written=2, full=True)
    assert write(database, client) == SnapshotRun(written=0, full=False)
    marker: Any = client.get(MARKER_KEY)
    ahead = datetime.fromisoformat(marker.decode()) + HOUR
    client.set(MARKER_KEY, ahead.isoformat(), keepttl=True)
    assert write(database, client) == SnapshotRun(written=2, full=True)

"""The outbox is emptied: in order, at least once, whatever breaks in between."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Event

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import text

from tests.factories import call
from tests.limits.test_limit_tasks import heard
from usage_tasks.coordination import lock
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.services.operations import dispatch_outbox
from usage_tasks.services.operations.dispatch_outbox import BATCH, dispatch
from usage_tasks.storage.operations import outbox
from usage_tasks.storage.operations.outbox import OutboxRow
from usage_tasks.tasks import maintenance

pytestmark = pytest.mark.usefixtures("broker")

MINUTE = timedelta(minutes=1)


def announce(rt: Runtime, count: int, *, first: int = 1, payload: str = '{"attribution_id": "team:x"}') -> list[str]:
    """Store announcements; return their keys in order."""
    statement = """
        INSERT INTO outbox (key, task, payload)
        SELECT 'k' || n, 'server.usage_limit_reached', CAST(:payload AS jsonb)
        FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n ORDER BY n
    """
    last = first + count - 1
    with rt.transaction() as connection:
        connection.execute(text(statement), {"first": first, "last": last, "payload": payload})
    return [f"k{number}" for number in range(first, last + 1)]


def ids(rt: Runtime) -> list[str]:
    return [message.headers["id"] for message in heard(rt)]


def waiting(rt: Runtime) -> int:
    with rt.transaction() as connection:
        return int(connection.execute(text("SELECT count(*) FROM outbox WHERE dispatched_at IS NULL")).scalar_one())


def asked_again(rt: Runtime) -> int:
    return sum(b"maintenance.dispatch_outbox" in each for each in rt.redis.lrange("usage:maintenance", 0, -1))


@pytest.mark.holds("limits.dispatched")
def test_all_of_it_is_sent_by_one_run_in_the_order_in_which_it_was_stored(rt: Runtime) -> None:
    keys = announce(rt, 2 * BATCH + 1)
    assert call(maintenance.dispatch_outbox) == {"dispatched": len(keys)}
    assert ids(rt) == keys
    assert (waiting(rt), asked_again(rt)) == (0, 0)


def test_a_run_whose_time_is_used_up_leaves_the_rest_to_the_next_one(rt: Runtime) -> None:
    keys = announce(rt, 2 * BATCH + 1)
    runs = [dispatch(rt.transaction, maintenance.publish, alone=True, longest=timedelta(0)) for _ in range(3)]
    assert [(run.sent, run.more) for run in runs] == [(BATCH, True), (BATCH, True), (1, False)]
    assert ids(rt) == keys


@pytest.mark.holds("limits.dispatched")
def test_one_that_cannot_be_sent_keeps_no_other_waiting_and_is_named(rt: Runtime) -> None:
    bad = announce(rt, BATCH + 1, payload="[1]")
    keys = announce(rt, BATCH, first=5000)
    with pytest.raises(PermanentError, match=rf"outbox: {len(bad)} can't be sent, {BATCH} sent: k1: .*; k2: "):
        call(maintenance.dispatch_outbox)
    assert ids(rt) == keys
    assert (waiting(rt), asked_again(rt)) == (len(bad), 0)


@pytest.mark.parametrize("payload", ['{"a": %s}' % ("9" * 5_000), "[" * 3_000 + "]" * 3_000, "5"])
def test_one_that_cannot_be_read_keeps_no_other_waiting_and_is_named(rt: Runtime, payload: str) -> None:
    announce(rt, 1, payload=payload)
    keys = announce(rt, 2, first=10)
    with pytest.raises(PermanentError, match=r"outbox: 1 can't be sent, 2 sent: k1: "):
        call(maintenance.dispatch_outbox)
    assert ids(rt) == keys
    assert waiting(rt) == 1


@contextmanager
def full(rt: Runtime) -> Iterator[None]:
    """A broker that answers, and takes nothing."""
    rt.redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        rt.redis.config_set("maxmemory", 0)


def test_a_broker_that_takes_nothing_gets_all_of_it_when_it_does_again(rt: Runtime) -> None:
    keys = announce(rt, BATCH + 1)
    with full(rt), pytest.raises(RetryableError, match="broker: "):
        call(maintenance.dispatch_outbox)
    assert waiting(rt) == len(keys)
    assert call(maintenance.dispatch_outbox) == {"dispatched": len(keys)}
    assert ids(rt) == keys


@pytest.mark.holds("limits.dispatched")
def test_a_broker_that_goes_away_in_the_middle_is_not_asked_again_and_has_what_it_took(rt: Runtime) -> None:
    keys = announce(rt, 3 * BATCH)
    batches: list[int] = []

    def publish(rows: Sequence[OutboxRow]) -> Mapping[int, str]:
        batches.append(len(rows))
        if len(batches) == 2:
            raise RetryableError("away")
        return maintenance.publish(rows)

    with pytest.raises(RetryableError, match="away"):
        dispatch(rt.transaction, publish, alone=True, longest=MINUTE)
    assert batches == [BATCH, BATCH]
    assert waiting(rt) == 2 * BATCH
    assert call(maintenance.dispatch_outbox) == {"dispatched": 2 * BATCH}
    assert ids(rt) == keys


@pytest.mark.holds("limits.dispatched")
@pytest.mark.parametrize("sent", [True, False], ids=["after sending", "before sending"])
def test_what_a_dead_run_had_claimed_is_sent_before_all_that_is_younger(rt: Runtime, *, sent: bool) -> None:
    keys = announce(rt, 3)
    with rt.transaction() as connection:
        claimed = outbox.claim_announcements(connection, limit=2, lease=dispatch_outbox.LEASE)
    if sent:
        maintenance.publish(claimed)
    keys += announce(rt, 2, first=4)
    assert call(maintenance.dispatch_outbox) == {"dispatched": 5}
    assert ids(rt) == [*(keys[:2] if sent else []), *keys]


@pytest.mark.holds("limits.dispatched")
def test_of_two_runs_at_once_one_sends_and_looks_again_after_it_let_the_other_pass(rt: Runtime) -> None:
    announce(rt, 1)
    sending, go_on = Event(), Event()

    def late() -> dict[str, int]:
        assert sending.wait(10)
        announce(rt, 1, first=2)
        answer: dict[str, int] = call(maintenance.dispatch_outbox)
        go_on.set()
        return answer

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(late)
        with lock.held(rt.redis, "maintenance.dispatch_outbox") as state:
            assert state is lock.LockState.HELD
            sending.set()
            assert go_on.wait(10)
        assert other.result() == {"dispatched": 0}
    assert ids(rt) == []
    assert call(maintenance.dispatch_outbox) == {"dispatched": 2}


def test_what_was_announced_after_the_last_look_of_a_run_is_asked_for(rt: Runtime) -> None:
    announce(rt, 1)
    with rt.transaction() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION announce_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "INSERT INTO outbox (key, task, payload) VALUES ('late', 'server.usage_limit_reached', '{}'); "
                "RETURN NULL; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER announce_one AFTER UPDATE OF dispatched_at ON outbox "
                "FOR EACH STATEMENT EXECUTE FUNCTION announce_one()"
            )
        )
    assert call(maintenance.dispatch_outbox) == {"dispatched": 1}
    assert (ids(rt), waiting(rt), asked_again(rt)) == (["k1"], 1, 1)


def test_without_the_lock_s_redis_what_another_run_has_claimed_is_left_to_it(rt: Runtime) -> None:
    announce(rt, 3)
    with rt.transaction() as connection:
        outbox.claim_announcements(connection, limit=2, lease=dispatch_outbox.LEASE)
    vars(rt)["redis"] = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    assert call(maintenance.dispatch_outbox) == {"dispatched": 1}
    assert waiting(rt) == 2

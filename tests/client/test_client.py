"""The sender's helper against real workers, one of them killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery

from tests.factories import HOUR, START, make_id, session_row
from tests.warm.start import launch
from usage_tasks import client
from usage_tasks.client import (
    Recorded,
    RefusedError,
    UnconfirmedError,
    WrongBrokerError,
    confirm,
    prepare,
    record,
    record_unconfirmed,
)
from usage_tasks.embedded.processes import child_process, free_port

ACTOR = "service:tests"
PREFIX = {"global_keyprefix": "usage:"}
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def sender(redis_url: str) -> Celery:
    """A Celery application of somebody else's, on the same broker."""
    return make_sender(redis_url)


def make_sender(url: str, prefix: Mapping[str, str] = PREFIX) -> Celery:
    app = Celery("somebody", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        broker_transport_options={**prefix, "socket_connect_timeout": 1},
        result_backend_transport_options=prefix,
        task_publish_retry_policy={"max_retries": 0},
    )
    return app


def start_worker(
    stack: ExitStack, environment: dict[str, str], directory: Path, number: int, *options: str, queue: str = "usage"
) -> Any:
    ready = directory / f"worker-{number}.log"
    return stack.enter_context(
        child_process(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "usage_tasks",
                "worker",
                f"--queues={queue}",
                "--concurrency=1",
                f"--hostname=usage{number}@test",
                "--without-mingle",
                "--without-gossip",
                "--loglevel=INFO",
                *options,
            ],
            name="worker",
            log=ready,
            environment=environment
            | {"USAGE_TEST_CLOCK": "false", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            ready=lambda: ready.exists() and " ready." in ready.read_text(),
            ready_seconds_max=30,
            stop_seconds_max=1,
            launcher=launch,
        )
    )


def rows(url: str) -> Sequence[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT instance_id, revision FROM open_session ORDER BY 1").fetchall()


def report(name: object, **fields: Any) -> dict[str, Any]:
    return session_row(instance_id=str(make_id(name)), observed_at=START, **fields)


def queued(url: str) -> int:
    with redis.Redis.from_url(url) as held:
        return int(held.llen("usage:usage"))


def test_reports_are_confirmed_though_the_worker_is_killed_in_between(
    sender: Celery, environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    reports = [report(number) for number in range(3)] + [report("bad", workspace_class="gold"), report(0)]
    with ExitStack() as workers, ThreadPoolExecutor() as pool:
        with ExitStack() as first, psycopg.connect(database_url) as holding:
            worker = start_worker(first, environment, tmp_path, 1)
            holding.execute("LOCK TABLE workspace_instance")
            sent = pool.submit(record, sender, reports, actor=ACTOR, confirm_seconds=2, attempts=20)
            await_lock(database_url)
            os.killpg(worker.pid, signal.SIGKILL)  # its child too, else that commits once the lock is free
        assert rows(database_url) == []
        start_worker(workers, environment, tmp_path, 2)
        done = sent.result(timeout=30)
        assert (done.inserted, done.unchanged, done.quarantined) == (3, 1, 1)
        assert [(each["index"], each["field"]) for each in done.rejections] == [(3, "workspace_class")]
        held = rows(database_url)
        assert sorted(held) == sorted((make_id(number), 1) for number in range(3))
        # Once more: a fresh answer, nothing new.
        assert record(sender, reports, actor=ACTOR).unchanged == 4
        # The first refusal ends the waiting, however patient the sender is and however much is under way.
        many = [report(number) for number in range(client.BATCH + 1)]
        with pytest.raises(RefusedError, match=r"refused with ArgumentsError: .*actor") as refused:
            record(sender, many, actor="nobody", confirm_seconds=5, attempts=10)
        assert isinstance(refused.value, UnconfirmedError)
        assert [batch.begin for batch in refused.value.batches] == [0, client.BATCH]
        log = (tmp_path / "worker-2.log").read_text().splitlines()
        refusals = [line for line in log if "task.refused" in line and refused.value.batches[0].task_id in line]
        assert len(refusals) == 1


def await_lock(url: str) -> None:
    """Wait until the worker is in the middle of its transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(1000):
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'workspace_instance'::regclass"
            if connection.execute(waiting).fetchone() != (0,):
                return
            time.sleep(0.01)
    raise TimeoutError("the worker took nothing up")


def test_what_nobody_answers_is_named_and_was_sent_again_under_the_same_id(redis_url: str) -> None:
    # A prefix of its own: a worker of the test before that has not quite ended writes its installation's id again.
    sender = make_sender(redis_url, {"global_keyprefix": "nobody:"})
    reports = [report(number) for number in range(2)]
    (batch,) = prepare(reports, actor=ACTOR)
    with pytest.raises(UnconfirmedError) as failed:
        record(sender, reports, actor=ACTOR, confirm_seconds=0.1, attempts=3)
    assert str(failed.value) == (
        "1 batches are unconfirmed, no answer after 3 attempts of 0.1 s, `global_keyprefix`: must be that of the"
        " installation (got 'nobody:', under which there is no installation in this Redis):"
        f" reports 0 to 1 (task {batch.task_id})"
    )
    assert failed.value.batches == [batch]
    assert failed.value.recorded == Recorded()
    with redis.Redis.from_url(redis_url) as held:
        messages = held.lrange("nobody:usage", 0, -1)
    assert len(messages) == 3
    assert all(batch.task_id.encode() in message for message in messages)


@pytest.mark.parametrize("prefix", ["usage:", "other:", ""])
def test_a_prefix_under_which_there_is_no_installation_is_named(redis_url: str, prefix: str) -> None:
    with redis.Redis.from_url(redis_url) as held:
        held.set("usage:installation", "0b1c2d3e-0000-4000-8000-000000000001@1/2")
    app = make_sender(redis_url)
    options = {"global_keyprefix": prefix} if prefix else {}
    app.conf.update(broker_transport_options=options, result_backend_transport_options=options)
    with pytest.raises(UnconfirmedError, match="no answer after 1 attempts") as failed:
        record(app, [report(0)], actor=ACTOR, confirm_seconds=0.1, attempts=1)
    named = f"`global_keyprefix`: must be that of the installation (got {prefix!r}" in str(failed.value)
    assert named is (prefix != "usage:")
    app.close()


@pytest.mark.parametrize("backend", [None, "cache+memory://", "rpc://"])
def test_an_application_that_cannot_read_answers_is_refused_before_anything_is_sent(
    redis_url: str, backend: str | None
) -> None:
    app = Celery("somebody", broker=redis_url, backend=backend, set_as_current=False)
    app.conf.broker_transport_options = PREFIX
    got = "nothing" if backend is None else backend.partition(":")[0]
    with pytest.raises(WrongBrokerError, match=rf"`result_backend`: must be .* \(got {re.escape(got)}\)"):
        record(app, [report(0)], actor=ACTOR)
    with pytest.raises(WrongBrokerError, match="`result_backend`"):
        confirm(app, prepare([report(0)], actor=ACTOR))
    assert queued(redis_url) == 0
    record_unconfirmed(app, [report(0)], actor=ACTOR)  # it waits for no answer
    assert queued(redis_url) == 1
    app.close()


@pytest.mark.parametrize("options", [{}, {"global_keyprefix": "other:"}])
def test_answers_are_awaited_under_the_prefix_of_the_messages(redis_url: str, options: dict[str, str]) -> None:
    app = make_sender(redis_url)
    app.conf.result_backend_transport_options = options
    with pytest.raises(
        WrongBrokerError, match="`result_backend_transport_options`: must have the global_keyprefix 'us"
    ):
        record(app, [report(0)], actor=ACTOR)
    assert queued(redis_url) == 0
    app.close()


def test_a_broker_that_is_away_leaves_its_reports_unconfirmed() -> None:
    nowhere = make_sender(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(UnconfirmedError, match="reports 0 to 0"):
        record(nowhere, [report(0)], actor=ACTOR, confirm_seconds=0.1, attempts=1)


def test_fire_and_forget_sends_each_batch_once_and_waits_for_nothing(sender: Celery, redis_url: str) -> None:
    batches = record_unconfirmed(sender, [report(number) for number in range(client.BATCH + 1)], actor=ACTOR)
    assert [batch.begin for batch in batches] == [0, client.BATCH]
    assert queued(redis_url) == 2


def test_ids_follow_from_the_content() -> None:
    one, same = (prepare([report(0)], actor=ACTOR)[0].task_id for _ in range(2))
    assert one == same
    others = [
        prepare([report(1)], actor=ACTOR),
        prepare([report(0)], actor="service:other"),
        prepare([report(0)], actor=ACTOR, at=START + HOUR),
        prepare([report(0) | {"observed_at": (START + timedelta(seconds=1)).isoformat()}], actor=ACTOR),
    ]
    assert len({one, *(batches[0].task_id for batches in others)}) == 5


def test_a_report_without_an_observation_time_is_stamped_so_that_sending_again_ages_nothing() -> None:
    (batch,) = prepare([session_row()], actor=ACTOR)
    assert batch.arguments["instances"][0]["observed_at"]
    (dated,) = prepare([session_row()], actor=ACTOR, at=START)
    assert dated.arguments["instances"][0]["observed_at"] == START.isoformat()


def test_the_example_of_the_readme_records_its_session(
    environment: dict[str, str], database_url: str, redis_url: str, tmp_path: Path
) -> None:
    readme = (Path(__file__).parents[2] / "client" / "README.md").read_text()
    example = readme.partition("```python\n")[2].partition("```")[0]
    # Prices in the tests' list are for other classes.
    example = example.replace("redis://redis:6379/0", redis_url).replace('"default"', '"small"')
    with ExitStack() as workers:
        start_worker(workers, environment, tmp_path, 1)
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "1 new, 0 changed, 0 refused\n"
    assert len(rows(database_url)) == 1

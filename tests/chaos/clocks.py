"""Clocks that are wrong and clocks that jump: what a worker, a beat, a retry, a job and the ledger then do.

Each process has a host's clock of its own (tests/chaos/host_clock.py). The database's is right but where a fault sets
it (tests/database_clock.py); Redis's is right. The outcome of a line has what was counted.
"""

import itertools
import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from tests.chaos.faults import Line, begin, line, works
from tests.chaos.quarter import ACTOR, is_whole
from tests.chaos.world import World, running_world
from tests.database_clock import set_database_clock
from usage_tasks.celery_files.beat_schedule import make_beat_schedule
from usage_tasks.coordination.celery_internals.queues import list_key
from usage_tasks.coordination.ticks import WAIT_MAX
from usage_tasks.settings import load_settings
from usage_tasks.telemetry.headers import TICK

AHEAD: Final = timedelta(days=62)
"""Farther than two billing cycles: whatever goes by such a clock ends them both."""

HOUR: Final = timedelta(hours=1)
JUMPS: Final = (timedelta(0), AHEAD, -AHEAD, HOUR, -HOUR, timedelta(days=35), timedelta(minutes=3))
RETRIES: Final = 20
WAIT_SECONDS_MAX: Final = 30
NOTICED_SECONDS_MAX: Final = 90
"""A worker looks at the clocks once a minute."""

TICKS_SECONDS: Final = 6
"""How long a beat that ticks each second is listened to after its clock has jumped."""

AWAY: Final = timedelta(hours=6)
"""How long no worker is there."""

SESSION_CENTS: Final = 600
"""Of an hour of class xlarge, 0.1 credits a minute."""

_CLASS: Final = "xlarge"
_SETTINGS: Final = {
    "testClock": False,
    "resetUsageSchedule": "1s",
    # Nothing is to be asked of Stripe, and nobody answers there.
    "stripeApiBase": "http://127.0.0.1:1",
    "stripeBackfillSchedule": "",
    "invoiceReconcileSchedule": "",
}
_OF_THE_FUTURE: Final = """
    SELECT (SELECT count(*) FROM ledger_entry WHERE greatest(effective_at, posted_at) > clock_timestamp()),
           (SELECT count(*) FROM cost_center WHERE greatest(cycle_started_at, created_at) > clock_timestamp()),
           (SELECT count(*) FROM job_run WHERE greatest(slot, started_at) > clock_timestamp()),
           (SELECT count(*) FROM ledger_entry WHERE kind = 'reset')
"""
_numbers = itertools.count(1)


@contextmanager
def clocks_world(clocks: Mapping[str, timedelta]) -> Iterator[World]:
    """A world of these workers and beats, each with its host's clock ahead by so much."""
    with running_world(settings=_SETTINGS, clocks=clocks) as world:
        set_database_clock(world.database_url, timedelta(0))
        world.start(*clocks)
        works(world)
        yield world


def skewed_ticks(world: World) -> Line:
    """Beat and workers are up to 62 days apart: jobs run all the same."""
    fault = begin("ticks between clocks 124 days apart")
    before = _runs(world)
    seconds = world.wait("3 runs", lambda: _runs(world) >= before + 3, seconds=WAIT_SECONDS_MAX)
    return line(fault, "3 due times run", seconds, WAIT_SECONDS_MAX)


def skewed_retries(world: World) -> Line:
    """Two workers whose clocks differ by 62 days take each other's retries, which are to wait for a second."""
    fault = begin("retries between clocks 62 days apart")
    marks = [f"busy {next(_numbers)}" for _ in range(RETRIES)]
    started = time.monotonic()
    sent = [world.send("maintenance.chaos_busy", mark=mark) for mark in marks]
    done = [world.await_answer(each or "", seconds=WAIT_SECONDS_MAX) is not None for each in sent]
    assert all(done), f"{sum(done)} of {RETRIES} retries came back"
    told = f"{RETRIES} of {RETRIES} done, each after its second"
    return line(fault, told, time.monotonic() - started, WAIT_SECONDS_MAX)


def skewed_redelivery(world: World) -> Line:
    """A worker whose clock is ahead does not take back what another one is working on."""
    fault = begin("taken messages, clocks 62 days apart")
    marks = [f"nap {next(_numbers)}" for _ in range(2)]  # one for each worker
    for mark in marks:
        world.send("maintenance.chaos_nap", mark=mark, seconds=7)
    seconds = world.wait("the naps", lambda: all(world.redis.exists(f"{mark} ended") for mark in marks))
    begun = [int(world.redis.get(f"{mark} begun") or 0) for mark in marks]
    assert begun == [1, 1], f"begun {begun} times"
    return line(fault, "each begun once", seconds, WAIT_SECONDS_MAX)


def jumping_beat(world: World) -> Line:
    """A beat's clock is set back by 62 days, then forward by 124; its ticks go on."""
    fault = begin("a beat's clock jumps back and forward")
    counted = {}
    for name, ahead in (("back", -AHEAD), ("forward", AHEAD)):
        world.set_clock("beat 1", ahead)
        before = _runs(world)
        time.sleep(TICKS_SECONDS)
        counted[name] = _runs(world) - before
    told = ", ".join(f"{runs} runs in {TICKS_SECONDS} s after {name}" for name, runs in counted.items())
    assert all(runs >= TICKS_SECONDS // 2 for runs in counted.values()), told
    return line(fault, told, TICKS_SECONDS, TICKS_SECONDS)


def storm(world: World, *, seconds: float, seed: int) -> Line:
    """Sessions are reported while the clocks of all hosts jump; each is billed once, and nothing is of the future."""
    fault = begin("hosts' clocks jump by up to 124 days under load")
    chance = random.Random(seed)
    hosts, sent, jumps = list(world.running()), 0, 0
    runs, started = _runs(world), time.monotonic()
    while time.monotonic() - started < seconds:
        world.set_clock(chance.choice(hosts), chance.choice(JUMPS))
        jumps += 1
        world.ask("usage.record_instances", instances=[_session(world) for _ in range(20)], actor=ACTOR)
        sent += 20
        world.supervise()
    expected = [(sent, sent * SESSION_CENTS)]
    billed = "SELECT count(*), COALESCE(sum(credit_cents), 0)::bigint FROM ledger_entry WHERE kind = 'session'"
    recovery = world.wait("the ledger", lambda: world.query(billed) == expected, seconds=WAIT_SECONDS_MAX)
    (counted,) = world.query(_OF_THE_FUTURE)
    assert counted == (0, 0, 0, 0), f"entries, cycles and slots of the future, and resets: {counted}"
    assert is_whole(world, _now(world)), "verify found something"
    told = f"{sent} sessions billed once, {jumps} jumps, {_runs(world) - runs} runs in {seconds:g} s; 0 of the future"
    return line(fault, told, recovery, WAIT_SECONDS_MAX)


def database_set_back(world: World) -> Line:
    """The database's own clock is set back by an hour, then right again: jobs run on, and a worker logs it."""
    fault = begin("the database's clock is set back by an hour")
    for each in world.running():
        world.set_clock(each, timedelta(0))
    waits = []
    for ahead in (-HOUR, timedelta(0)):
        set_database_clock(world.database_url, ahead)
        before = _runs(world)
        waits.append(world.wait("2 runs", lambda before=before: _runs(world) >= before + 2, seconds=60))  # type: ignore[misc]  # a default binds it
        if ahead:
            said = world.wait("a warning", lambda: "database" in _warned(world), seconds=NOTICED_SECONDS_MAX)
    told = f"runs after {waits[0]:.1f} s, after it was right again {waits[1]:.1f} s; said after {said:.0f} s"
    return line(fault, told, max(waits), WAIT_SECONDS_MAX)


def away(world: World, *, earlier_beat: bool) -> Line:
    """No worker for six hours; then the ticks that waited are worked off. A beat of an earlier version leaves all."""
    beat = "an earlier version's beat" if earlier_beat else "beat"
    fault = begin(f"6 hours without a worker, {beat}")
    schedule = make_beat_schedule(load_settings(world.environment))
    each_has = AWAY // (timedelta(minutes=1) if earlier_beat else WAIT_MAX)
    headers: dict[str, Any] = {"celery_beat_task": True} | ({} if earlier_beat else {TICK: True})
    expired = {"expires": time.time() - 1} if earlier_beat else {}
    world.retire("all")
    queues = sorted({name.partition(".")[0] for name in schedule})
    with world.app.producer_pool.acquire(block=True) as producer:
        for _ in range(each_has):
            for name, entry in schedule.items():
                options: dict[str, Any] = {"queue": name.partition(".")[0], "headers": headers, **expired}
                world.app.send_task(name, kwargs=entry["kwargs"], ignore_result=True, producer=producer, **options)
    ticks = sum(int(world.redis.llen(list_key(world.redis, queue))) for queue in queues)
    world.start("all")
    seconds = world.wait(
        "the queues", lambda: not any(world.redis.llen(list_key(world.redis, queue)) for queue in queues)
    )
    told = f"{ticks} ticks of {len(schedule)} tasks"
    bound = 2 * WAIT_SECONDS_MAX if earlier_beat else WAIT_SECONDS_MAX  # once, at an upgrade
    return line(fault, told, seconds, bound)


def _runs(world: World) -> int:
    """How often the ledger job has begun."""
    ((epoch,),) = world.query("SELECT COALESCE(max(epoch), 0) FROM job_epoch WHERE job = 'usage.reconcile'")
    return int(epoch)


def _now(world: World) -> datetime:
    ((now,),) = world.query("SELECT clock_timestamp()")
    moment: datetime = now
    return moment


def _session(world: World) -> dict[str, str]:
    """A session of an hour that has just stopped, by the database's clock."""
    stopped_at = _now(world)
    return {
        "instance_id": str(uuid.uuid4()),
        "workspace_id": "ws-1",
        "user_id": str(uuid.UUID(int=1)),
        "attribution_id": f"team:{uuid.UUID(int=2)}",
        "workspace_class": _CLASS,
        "started_at": (stopped_at - HOUR).isoformat(),
        "stopped_at": stopped_at.isoformat(),
    }


def _warned(world: World) -> set[str]:
    """The clocks that workers called wrong."""
    said = [each for log in world.directory.glob("work*.log") for each in log.read_text().splitlines()]
    lines = [json.loads(each) for each in said if '"clock.wrong"' in each]
    return {clock for each in lines for clock in each["clocks"]}

"""Caps and ends of sessions in SQL are the domain's: the caps that a tick sets, moves and lifts, and a release."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START, make_id, team
from tests.rows import insert_rows
from usage_tasks.domain.sessions import CapReason
from usage_tasks.domain.zombies import (
    Cap,
    CapPolicy,
    SessionLife,
    billed_until,
    final_since,
    inferred_stop,
    judge_cap,
    release_cap,
)
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger.posting import post_stopped
from usage_tasks.storage.sessions.zombies import Caps, cap_zombies, list_zombies, release

TICK = timedelta(microseconds=1)
AT = START + 9 * DAY
BESIDE = [0 * TICK, 0 * TICK, -TICK, TICK]
BOUNDS = [0 * HOUR, HOUR, DAY]
# Many sessions a statement, seeded by Hypothesis: it would draw them one by one for longer than the SQL takes.
RANDOMS = st.randoms(use_true_random=True)
SESSIONS = 80
HALF = 0.5
# Final sessions of a class that has a price are posted, others stay open.
PRICED, UNPRICED = "small", "unpriced"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A policy and sessions whose instants lie at its bounds, or a microsecond beside them."""

    policy: CapPolicy
    lives: Sequence[SessionLife]


def random_world(rng: Random) -> World:
    grace, lifetime = rng.choice(BOUNDS), rng.choice(BOUNDS)
    off = rng.choice([(), (), (), ("grace",), ("lifetime",), ("grace", "lifetime")])
    return World(
        policy=replace(CapPolicy(grace=grace, lifetime=lifetime), **dict.fromkeys(off)),
        lives=[random_life(rng, grace, lifetime) for _ in range(SESSIONS)],
    )


def random_life(rng: Random, grace: timedelta, lifetime: timedelta) -> SessionLife:
    started_at = AT - rng.choice([0 * HOUR, lifetime, lifetime + HOUR]) + rng.choice(BESIDE)
    old_at = started_at + lifetime
    edges = [AT, AT - grace, AT - grace - HOUR, started_at, old_at, old_at - grace, old_at + HOUR]
    seen = rng.choice(edges) + rng.choice(BESIDE)
    stopping_at, stopped_at = rng.choice([(None, None)] * 6 + [(seen, None), (None, seen), (seen, AT)])
    running = stopping_at is None and stopped_at is None
    cap = Cap(at=rng.choice([seen + grace, old_at]) + rng.choice(BESIDE), reason=rng.choice(list(CapReason)))
    life = SessionLife(
        started_at=started_at,
        last_seen_at=seen if stopped_at is None or rng.random() < HALF else None,
        stopping_at=stopping_at,
        stopped_at=stopped_at,
        missed_at=rng.choice([None, None, seen, seen + TICK, AT + DAY]),
        cap=rng.choice([None, cap]) if running else None,
        heartbeat_released=rng.choice([False, False, False, True]),
        lifetime_released=rng.choice([False, False, False, True]),
    )
    return replace(life, posted=final_since(life) is not None and rng.random() < HALF)


def store(connection: Connection, lives: Sequence[SessionLife]) -> None:
    insert_rows(connection, "workspace_instance", [row_of(number, life) for number, life in enumerate(lives)])
    post_stopped(connection, at=AT + 99 * DAY, limit=1000)


def row_of(number: int, life: SessionLife) -> dict[str, Any]:
    return {
        "instance_id": make_id(number),
        "attribution_id": team(),
        "user_id": make_id("owner"),
        "workspace_id": "ws-1",
        "workspace_class": PRICED if life.posted else UNPRICED,
        "started_at": life.started_at,
        "stopping_at": life.stopping_at,
        "stopped_at": life.stopped_at,
        "observed_at": START,
        "last_seen_at": life.last_seen_at,
        "missed_at": life.missed_at,
        "capped_at": life.cap and life.cap.at,
        "cap_reason": life.cap and life.cap.reason.value,
        "heartbeat_released": life.heartbeat_released,
        "lifetime_released": life.lifetime_released,
    }


def stored(connection: Connection, column: str) -> list[Any]:
    rows = connection.execute(text(f"SELECT instance_id, {column} AS value FROM workspace_instance"))  # noqa: S608
    values = {row.instance_id: row.value for row in rows}
    return [values[make_id(number)] for number in range(len(values))]


def stored_caps(connection: Connection) -> list[Cap | None]:
    columns = zip(stored(connection, "capped_at"), stored(connection, "cap_reason"), strict=True)
    return [None if at is None else Cap(at=at, reason=CapReason(reason)) for at, reason in columns]


def count_changes(before: Sequence[Cap | None], after: Sequence[Cap | None]) -> Caps:
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    capped = sum(old is None for old, _ in changed)
    lifted = sum(new is None for _, new in changed)
    return Caps(capped=capped, moved=len(changed) - capped - lifted, lifted=lifted)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=RANDOMS, at=st.sampled_from([AT, AT, AT - HOUR]))
def test_the_database_caps_moves_and_lifts_as_the_domain_does(
    connection: Connection, rng: Random, at: datetime
) -> None:
    world = random_world(rng)
    expected = [judge_cap(life, at=at, policy=world.policy) for life in world.lives]
    bounds: dict[str, Any] = {"at": at, "grace": world.policy.grace, "lifetime": world.policy.lifetime, "limit": 1000}
    with rehearsal(connection):
        store(connection, world.lives)
        open_before = connection.execute(text("SELECT count(*) FROM open_session")).scalar_one()
        assert open_before == sum(not life.posted for life in world.lives)
        done = cap_zombies(connection, **bounds)
        assert stored_caps(connection) == expected
        assert done == count_changes([life.cap for life in world.lives], expected)
        assert cap_zombies(connection, **bounds) == Caps(capped=0, moved=0, lifted=0)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=RANDOMS)
def test_ends_in_the_database_are_the_domains_and_a_release_does_the_same(connection: Connection, rng: Random) -> None:
    world = random_world(rng)
    with rehearsal(connection):
        store(connection, world.lives)
        assert stored(connection, "inferred_stopped_at") == [inferred_stop(life) for life in world.lives]
        assert stored(connection, "final_at") == [final_since(life) for life in world.lives]
        assert stored(connection, "ended_at") == [billed_until(life) for life in world.lives]
        for zombie in list_zombies(connection, limit=1000):
            release(connection, zombie)
        released = [release_cap(life) for life in world.lives]
        assert stored_caps(connection) == [life.cap for life in released]
        assert stored(connection, "heartbeat_released") == [life.heartbeat_released for life in released]
        assert stored(connection, "lifetime_released") == [life.lifetime_released for life in released]

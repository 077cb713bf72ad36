"""Sessions that claim to run and show no life, or run for longer than any may: capped, listed, released."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.sessions import CapReason
from usage_tasks.storage.rows import execute, fetch, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """The result of one batch: new caps, moved caps, lifted caps."""

    capped: int
    moved: int
    lifted: int

    @property
    def changed(self) -> int:
        """How many rows were written."""
        return self.capped + self.moved + self.lifted


# The first and last branch of `candidate` are ranges of partial indexes, the second reads what is open, which is
# narrow: a tick that finds nothing reads little, however long the history is.
# A cap that stands is not lifted by a tick that asks about the time before it.
_CAP = """
    WITH candidate AS (
        SELECT instance_id FROM workspace_instance
        WHERE final_at IS NULL AND stopping_at IS NULL AND capped_at IS NULL AND NOT heartbeat_released
            AND last_seen_at < :at - CAST(:grace AS interval)
        UNION
        SELECT o.instance_id FROM open_session o JOIN workspace_instance w USING (instance_id)
        WHERE o.started_at < :at - CAST(:lifetime AS interval)
            AND w.stopped_at IS NULL AND w.stopping_at IS NULL AND w.capped_at IS NULL AND NOT w.lifetime_released
        UNION
        SELECT instance_id FROM workspace_instance WHERE capped_at IS NOT NULL
    ), bounded AS (
        SELECT instance_id, w.capped_at, w.cap_reason, w.inferred_stopped_at, w.last_seen_at, w.started_at,
               CASE WHEN NOT w.heartbeat_released THEN w.last_seen_at + CAST(:grace AS interval) END AS silent_at,
               CASE WHEN NOT w.lifetime_released THEN w.started_at + CAST(:lifetime AS interval) END AS old_at
        FROM candidate JOIN workspace_instance w USING (instance_id)
    ), due AS (
        SELECT instance_id, capped_at AS held_at, cap_reason AS held_reason, last_seen_at, started_at,
               CASE WHEN holds THEN bound END AS bound,
               CASE WHEN holds THEN CASE WHEN old_at <= bound THEN 'lifetime' ELSE 'heartbeat' END END AS reason
        FROM bounded b,
        LATERAL (SELECT LEAST(silent_at, old_at) AS bound) AS l,
        LATERAL (
            SELECT (bound < :at OR bound = capped_at)
                AND (inferred_stopped_at IS NULL OR inferred_stopped_at > bound) AS holds
        ) AS h
    ), changing AS (
        SELECT w.instance_id, d.held_at, d.bound, d.reason
        FROM due d JOIN workspace_instance w USING (instance_id)
        WHERE (d.held_at, d.held_reason) IS DISTINCT FROM (d.bound, d.reason)
            -- Asked again of the row as it is once it is locked: a report may have come in between.
            AND w.stopped_at IS NULL AND w.stopping_at IS NULL
            AND (w.last_seen_at, w.started_at, w.capped_at)
                IS NOT DISTINCT FROM (d.last_seen_at, d.started_at, d.held_at)
        ORDER BY w.instance_id LIMIT :limit FOR UPDATE OF w SKIP LOCKED
    ), written AS (
        UPDATE workspace_instance AS held
        SET capped_at = c.bound, cap_reason = c.reason, recorded_at = clock_timestamp()
        FROM changing c WHERE held.instance_id = c.instance_id
        RETURNING c.held_at, c.bound
    )
    SELECT count(*) FILTER (WHERE held_at IS NULL) AS capped,
           count(*) FILTER (WHERE held_at IS NOT NULL AND bound IS NOT NULL) AS moved,
           count(*) FILTER (WHERE bound IS NULL) AS lifted
    FROM written
"""


def cap_zombies(
    connection: Connection, *, at: datetime, grace: timedelta | None, lifetime: timedelta | None, limit: int
) -> Caps:
    """Cap up to `limit` running sessions where their last proof of life plus the grace, or their lifetime, is past.

    A cap whose cause is gone, for a bound was changed or switched off, moves or is lifted. Nothing to change is
    nothing written. Sessions that another worker holds are left to it.
    """
    row = fetch_one(connection, _CAP, at=at, grace=grace, lifetime=lifetime, limit=limit)
    return Caps(capped=row.capped, moved=row.moved, lifted=row.lifted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zombie:
    """A running session that accrues no further than `capped_at`, and why."""

    instance_id: UUID
    attribution_id: AttributionId
    workspace_id: str
    workspace_class: str
    source: str | None
    started_at: datetime
    last_seen_at: datetime
    capped_at: datetime
    cap_reason: CapReason


_COLUMNS = """
    instance_id, attribution_id, workspace_id, workspace_class, source, started_at, last_seen_at, capped_at, cap_reason
"""


def list_zombies(connection: Connection, *, limit: int) -> Sequence[Zombie]:
    """List capped sessions, the longest capped first."""
    statement = f"""
        SELECT {_COLUMNS} FROM workspace_instance WHERE capped_at IS NOT NULL
        ORDER BY capped_at, instance_id LIMIT :limit
    """
    return [_zombie(row) for row in fetch(connection, statement, limit=limit)]


def lock_session(connection: Connection, instance_id: UUID) -> tuple[AttributionId, Zombie | None] | None:
    """Return the session's account and its cap, locked until the transaction ends, or None if it is unknown."""
    statement = f"SELECT {_COLUMNS} FROM workspace_instance WHERE instance_id = :instance FOR UPDATE"
    rows = fetch(connection, statement, instance=instance_id)
    if not rows:
        return None
    held = rows[0]
    return AttributionId(held.attribution_id), None if held.capped_at is None else _zombie(held)


def release(connection: Connection, zombie: Zombie) -> None:
    """Lift a cap for good: its reason no longer caps this session. The caller holds its lock."""
    statement = """
        UPDATE workspace_instance
        SET heartbeat_released = heartbeat_released OR cap_reason = 'heartbeat',
            lifetime_released = lifetime_released OR cap_reason = 'lifetime',
            capped_at = NULL, cap_reason = NULL, recorded_at = clock_timestamp()
        WHERE instance_id = :instance AND capped_at IS NOT NULL
    """
    execute(connection, statement, instance=zombie.instance_id)


def _zombie(row: Row[tuple[object, ...]]) -> Zombie:
    values: dict[str, Any] = dict(row._mapping)
    values["cap_reason"] = CapReason(values["cap_reason"])
    return Zombie(**values)

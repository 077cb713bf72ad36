"""Snapshots of the running sessions of a source, a cluster or a region: signs of life and gaps (docs/adr/0008)."""

from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.storage.operations.audit import auditing
from usage_tasks.storage.plans import Plan, planned, run_plan
from usage_tasks.storage.rows import execute, fetch, fetch_one


def lock_sources(connection: Connection, sources: Collection[str]) -> Mapping[str, datetime | None]:
    """Block snapshots of these sources until the transaction ends, so that a report and a snapshot see each other.

    Returns the time of the latest snapshot of each, or None if there is none.
    """
    if not sources:
        return {}
    names = sorted(sources)
    unknown = """
        INSERT INTO source_snapshot (source)
        SELECT n.source FROM unnest(CAST(:names AS text[])) AS n(source)
        WHERE NOT EXISTS (SELECT 1 FROM source_snapshot s WHERE s.source = n.source)
        ORDER BY n.source ON CONFLICT DO NOTHING
    """
    execute(connection, unknown, names=names)
    known = """
        SELECT source, taken_at FROM source_snapshot WHERE source = ANY(CAST(:names AS text[]))
        ORDER BY source FOR SHARE
    """
    return {row.source: row.taken_at for row in fetch(connection, known, names=names)}


def lock_free_sources(connection: Connection, sources: Collection[str]) -> None:
    """Block snapshots of these sources as `lock_sources` does; for who holds sessions already, and may not wait.

    A source that has had no snapshot is left out. The database refuses if a snapshot holds one: SQLSTATE 55P03.
    """
    if sources:
        statement = """
            SELECT FROM source_snapshot WHERE source = ANY(CAST(:names AS text[])) ORDER BY source FOR SHARE NOWAIT
        """
        fetch(connection, statement, names=sorted(sources))


def lock_source(connection: Connection, source: str) -> None:
    """Hold off reports and other snapshots of a source until the transaction ends."""
    statement = """
        INSERT INTO source_snapshot (source) VALUES (:source)
        ON CONFLICT (source) DO UPDATE SET recorded_at = clock_timestamp()
    """
    execute(connection, statement, source=source)


def renew(connection: Connection, instances: Collection[UUID], *, seen_at: datetime) -> int:
    """Note that these sessions ran at an instant; return how many were not known to run so late.

    For refused rows of a snapshot whose session is known.
    """
    statement = """
        WITH due AS (
            SELECT instance_id FROM workspace_instance
            WHERE instance_id = ANY(CAST(:instances AS uuid[])) AND stopped_at IS NULL AND last_seen_at < :seen_at
            ORDER BY instance_id FOR UPDATE
        )
        UPDATE workspace_instance AS held
        SET last_seen_at = :seen_at, recorded_at = clock_timestamp(),
            capped_at = CASE WHEN cap_reason <> 'heartbeat' THEN capped_at END,
            cap_reason = CASE WHEN cap_reason <> 'heartbeat' THEN cap_reason END
        FROM due WHERE held.instance_id = due.instance_id
    """
    return execute(connection, statement, instances=sorted(instances), seen_at=seen_at)


_LATEST = "source = :source AND (taken_at IS NULL OR taken_at < :taken_at)"
_GONE = "w.stopped_at IS NULL AND w.inferred_stopped_at IS NULL AND w.last_seen_at < :taken_at"

_AUDITED = auditing(
    "ended GROUP BY attribution_id ORDER BY attribution_id",
    action="sessions.missing",
    at=":taken_at",
    details="jsonb_build_object('source', CAST(:source AS text), 'ended', count(*))",
)

_END_MISSING = f"""
    WITH latest AS (
        UPDATE source_snapshot SET taken_at = :taken_at
        WHERE {_LATEST}
        RETURNING source
    ), missing AS (
        SELECT w.instance_id
        FROM workspace_instance w JOIN latest USING (source)
        WHERE {_GONE}
        ORDER BY w.instance_id FOR UPDATE OF w
    ), ended AS (
        UPDATE workspace_instance AS held SET missed_at = :taken_at, recorded_at = clock_timestamp()
        FROM missing WHERE held.instance_id = missing.instance_id
        RETURNING held.attribution_id
    ), told AS (
        {_AUDITED}
    )
    SELECT count(*) AS ended FROM ended
"""


def end_missing(connection: Connection, source: str, *, taken_at: datetime, actor: Actor) -> int:
    """End each session of a source that was not seen since its snapshot was taken; return how many.

    Nothing happens if a later snapshot is known: sessions missing there have ended already. Each account gets an
    audit row. The caller has renewed the sessions of the snapshot, and holds the source's lock.
    """
    return int(fetch_one(connection, _END_MISSING, source=source, taken_at=taken_at, actor=actor).ended)


_PLAN_MISSING = f"""
    WITH missing AS (
        SELECT w.instance_id, w.attribution_id, w.last_seen_at AS ends_at
        FROM workspace_instance w JOIN (SELECT source FROM source_snapshot WHERE {_LATEST}) AS latest USING (source)
        WHERE {_GONE}
    )
    {planned("missing", order="instance_id")}
"""


def plan_missing(connection: Connection, source: str, *, taken_at: datetime) -> Plan:
    """Return the sessions that `end_missing` would end, and at which proof of life."""
    return run_plan(connection, _PLAN_MISSING, source=source, taken_at=taken_at)

"""Sessions whose reports contradict one another about the start: locked, and taken over by an earlier report.

Source: docs/adr/0034-timelines.md.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.sessions import FixedFacts, SessionReport
from usage_tasks.domain.timelines import Segment
from usage_tasks.storage.pricing.timelines_sql import decode
from usage_tasks.storage.rows import execute, fetch
from usage_tasks.storage.sessions.source_snapshots import lock_sources


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSession:
    """A session as its accepted reports made it: the greatest of them, the fixed facts, the timeline."""

    greatest: SessionReport
    fixed: FixedFacts
    timeline: tuple[Segment, ...]


def lock_sessions(connection: Connection, instances: Collection[UUID]) -> Mapping[UUID, HeldSession]:
    """Return those of the sessions that are known, and keep others from changing them until the transaction ends."""
    statement = """
        SELECT instance_id, attribution_id, user_id, workspace_id, workspace_class, created_at, started_at,
               stopping_at, stopped_at, observed_at, source, timeline,
               COALESCE(first_observed_at, observed_at) AS first_observed_at
        FROM workspace_instance WHERE instance_id = ANY(CAST(:instances AS uuid[]))
        ORDER BY instance_id FOR UPDATE
    """
    rows = fetch(connection, statement, instances=list(instances))
    return {
        row.instance_id: HeldSession(
            greatest=SessionReport(
                index=0,
                instance_id=row.instance_id,
                attribution_id=AttributionId(row.attribution_id),
                user_id=row.user_id,
                workspace_id=row.workspace_id,
                workspace_class=row.workspace_class,
                created_at=row.created_at,
                started_at=row.started_at,
                stopping_at=row.stopping_at,
                stopped_at=row.stopped_at,
                observed_at=row.observed_at,
                source=row.source,
            ),
            fixed=FixedFacts(row.first_observed_at, row.workspace_class, row.user_id),
            timeline=decode(row.timeline),
        )
        for row in rows
    }


def take_over(connection: Connection, report: SessionReport, *, arrived_at: datetime | None) -> None:
    """Make a known session what it would be if this report were its only one; merge its segments afterwards."""
    lock_sources(connection, set() if report.source is None else {report.source})
    statement = """
        UPDATE workspace_instance AS held
        SET user_id = :user_id, workspace_id = :workspace_id, workspace_class = :workspace_class,
            created_at = :created_at, started_at = :started_at, stopping_at = :stopping_at, stopped_at = :stopped_at,
            observed_at = :observed_at, first_observed_at = NULL, timeline = NULL,
            last_seen_at = CASE WHEN CAST(:stopped_at AS timestamptz) IS NULL THEN seen.at END,
            source = :source, source_seen_at = CASE WHEN CAST(:source AS text) IS NOT NULL THEN seen.at END,
            missed_at = (SELECT taken_at FROM source_snapshot s WHERE s.source = :source),
            capped_at = NULL, cap_reason = NULL, recorded_at = clock_timestamp()
        FROM (SELECT LEAST(CAST(:observed_at AS timestamptz), CAST(:arrived_at AS timestamptz)) AS at) AS seen
        WHERE held.instance_id = :instance_id
    """
    execute(
        connection,
        statement,
        instance_id=report.instance_id,
        user_id=report.user_id,
        workspace_id=report.workspace_id,
        workspace_class=report.workspace_class,
        created_at=report.created_at,
        started_at=report.started_at,
        stopping_at=report.stopping_at,
        stopped_at=report.stopped_at,
        observed_at=report.observed_at,
        source=report.source,
        arrived_at=arrived_at,
    )


FACTS: Final = ("instance_id", "attribution_id", "user_id", "workspace_id", "workspace_class", "started_at")
"""What each report of a session must say."""


def list_facts(connection: Connection, instances: Collection[UUID]) -> Mapping[UUID, Mapping[str, object]]:
    """Return what is known of sessions as a report would say it."""
    statement = f"""
        SELECT {", ".join(FACTS)} FROM workspace_instance WHERE instance_id = ANY(CAST(:instances AS uuid[]))
    """
    rows = fetch(connection, statement, instances=list(instances))
    return {
        row.instance_id: {**{name: str(row._mapping[name]) for name in FACTS}, "started_at": row.started_at.isoformat()}
        for row in rows
    }


class KnownTimeline(NamedTuple):
    """The class at a session's start, and its timeline, which may be empty."""

    workspace_class: str
    timeline: tuple[Segment, ...]


def list_timelines(connection: Connection, reports: Sequence[SessionReport]) -> Mapping[UUID, KnownTimeline]:
    """Return what is known of those sessions that have a timeline, or began in another class than reported."""
    statement = """
        SELECT w.instance_id, w.workspace_class, w.timeline FROM workspace_instance w
        JOIN unnest(CAST(:instances AS uuid[]), CAST(:classes AS text[])) AS r(instance_id, workspace_class)
            ON r.instance_id = w.instance_id
        WHERE w.timeline IS NOT NULL OR w.workspace_class <> r.workspace_class
    """
    instances, classes = [each.instance_id for each in reports], [each.workspace_class for each in reports]
    return {
        row.instance_id: KnownTimeline(row.workspace_class, decode(row.timeline))
        for row in fetch(connection, statement, instances=instances, classes=classes)
    }

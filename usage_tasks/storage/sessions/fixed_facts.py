"""Sessions whose reports contradict one another about the start: looked up, and taken over by an earlier report.

Source: docs/adr/0034-timelines.md.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.prices import State
from usage_tasks.domain.sessions import NEVER, FixedFacts, SessionReport
from usage_tasks.domain.timelines import Segment
from usage_tasks.storage.pricing.timelines_sql import decode, joined
from usage_tasks.storage.rows import execute, fetch, rows_as_json
from usage_tasks.storage.sessions.merging import first_seen, start_reported, with_timelines


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSession:
    """A session as its accepted reports made it: the greatest of them, the fixed facts, the timeline.

    The source of the greatest is the one that was seen last, at `source_seen_at`.
    """

    greatest: SessionReport
    source_seen_at: datetime | None
    fixed: FixedFacts
    timeline: tuple[Segment, ...]


def list_sessions(connection: Connection, instances: Collection[UUID]) -> Mapping[UUID, HeldSession]:
    """Return those of the sessions that are known."""
    statement = f"""
        SELECT instance_id, attribution_id, user_id, workspace_id, workspace_class, created_at, started_at,
               stopping_at, stopped_at, observed_at, source, source_seen_at, timeline,
               {first_seen("w")} AS first_seen_at, {start_reported("w")} AS reported_at
        FROM workspace_instance w WHERE instance_id = ANY(CAST(:instances AS uuid[]))
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
            source_seen_at=row.source_seen_at,
            fixed=_fixed(row),
            timeline=decode(row.timeline),
        )
        for row in rows
    }


def _fixed(row: Row[Any]) -> FixedFacts:
    return FixedFacts(row.first_seen_at, row.reported_at, row.workspace_class, row.user_id)


def take_over(
    connection: Connection, reports: Sequence[SessionReport], *, seen_at: datetime | None, arrived_at: datetime | None
) -> None:
    """Make each known session what it would be if this report were its only one. The caller has locked the sources.

    `seen_at` and `arrived_at` as for `merging.merge_reports`.
    """
    statement = f"""
        UPDATE workspace_instance AS held
        SET user_id = r.user_id, workspace_id = r.workspace_id, workspace_class = r.workspace_class,
            created_at = r.created_at, started_at = r.started_at, stopping_at = r.stopping_at,
            stopped_at = r.stopped_at, observed_at = r.observed_at, first_observed_at = NULL, timeline = r.timeline,
            start_reported_at = CASE WHEN r.present THEN CAST('{NEVER.isoformat()}' AS timestamptz) END,
            last_seen_at = CASE WHEN r.stopped_at IS NULL THEN r.seen_at END,
            source = r.source, source_seen_at = CASE WHEN r.source IS NOT NULL THEN r.seen_at END,
            missed_at = r.missed_at, capped_at = NULL, cap_reason = NULL, recorded_at = clock_timestamp()
        FROM (
            SELECT told.*, s.taken_at AS missed_at, GREATEST(
                       LEAST(told.observed_at, CAST(:arrived_at AS timestamptz)), CAST(:seen_at AS timestamptz)
                   ) AS seen_at
            FROM jsonb_to_recordset(CAST(:reports AS jsonb)) AS told(
                instance_id uuid, user_id uuid, workspace_id text, workspace_class text, created_at timestamptz,
                started_at timestamptz, stopping_at timestamptz, stopped_at timestamptz, observed_at timestamptz,
                source text, present boolean, timeline jsonb)
            LEFT JOIN source_snapshot s USING (source)
        ) AS r
        WHERE held.instance_id = r.instance_id
    """
    if reports:
        rows = with_timelines(reports)
        execute(connection, statement, reports=rows_as_json(rows), seen_at=seen_at, arrived_at=arrived_at)


def set_starts(connection: Connection, reports: Sequence[SessionReport]) -> None:
    """Give sessions with an inferred start the class of these reports; merge the reports afterwards."""
    statement = f"""
        UPDATE workspace_instance AS held
        SET workspace_class = r.workspace_class, timeline = {joined("held.timeline", "r.timeline")},
            recorded_at = clock_timestamp()
        FROM jsonb_to_recordset(CAST(:reports AS jsonb)) AS r(instance_id uuid, workspace_class text, timeline jsonb)
        WHERE held.instance_id = r.instance_id
    """
    if reports:
        execute(connection, statement, reports=rows_as_json(with_timelines(reports)))


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


def keep_changes(connection: Connection, reports: Sequence[SessionReport]) -> None:
    """Remember the segments of reports without the start; nothing is asked for none."""
    statement = """
        INSERT INTO session_change (instance_id, user_id, begins_at, observed_at, workspace_class, state)
        SELECT DISTINCT instance_id, user_id, begins_at, observed_at, workspace_class, state
        FROM jsonb_to_recordset(CAST(:changes AS jsonb)) AS r(
            instance_id uuid, user_id uuid, begins_at timestamptz, observed_at timestamptz, workspace_class text,
            state text)
        ORDER BY 1, 2, 3, 4, 5, 6
        ON CONFLICT DO NOTHING
    """
    changes = [
        {"instance_id": report.instance_id, "user_id": report.user_id, **asdict(segment)}
        for report in reports
        for segment in report.segments
    ]
    if changes:
        execute(connection, statement, changes=rows_as_json(changes))


def list_changes(connection: Connection, users: Mapping[UUID, UUID]) -> Mapping[UUID, Sequence[Segment]]:
    """Return the segments of the present of sessions while they were of a user, by session."""
    statement = """
        SELECT c.instance_id, c.begins_at, c.observed_at, c.workspace_class, c.state
        FROM session_change c
        JOIN unnest(CAST(:instances AS uuid[]), CAST(:users AS uuid[])) AS r(instance_id, user_id)
            USING (instance_id, user_id)
        ORDER BY c.instance_id, c.begins_at
    """
    changes: dict[UUID, list[Segment]] = {}
    for row in fetch(connection, statement, instances=list(users), users=list(users.values())):
        segment = Segment(
            begins_at=row.begins_at,
            observed_at=row.observed_at,
            workspace_class=row.workspace_class,
            state=State(row.state),
        )
        changes.setdefault(row.instance_id, []).append(segment)
    return changes


class KnownTimeline(NamedTuple):
    """The fixed facts of a session, and its timeline, which may be empty."""

    fixed: FixedFacts
    timeline: tuple[Segment, ...]


def list_timelines(connection: Connection, reports: Sequence[SessionReport]) -> Mapping[UUID, KnownTimeline]:
    """Return what is known of those sessions that have a timeline, or began in another class than reported."""
    statement = f"""
        SELECT w.instance_id, w.user_id, w.workspace_class, w.timeline, {first_seen("w")} AS first_seen_at,
               {start_reported("w")} AS reported_at
        FROM workspace_instance w
        JOIN unnest(CAST(:instances AS uuid[]), CAST(:classes AS text[])) AS r(instance_id, workspace_class)
            ON r.instance_id = w.instance_id
        WHERE w.timeline IS NOT NULL OR w.workspace_class <> r.workspace_class
    """
    instances, classes = [each.instance_id for each in reports], [each.workspace_class for each in reports]
    return {
        row.instance_id: KnownTimeline(_fixed(row), decode(row.timeline))
        for row in fetch(connection, statement, instances=instances, classes=classes)
    }

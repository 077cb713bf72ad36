"""Workspace instances: what was reported of each session, merged so that the order of reports does not matter."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.sessions import NEVER, SessionReport
from usage_tasks.domain.timelines import Segment, join
from usage_tasks.storage.pricing.timelines_sql import encode, joined
from usage_tasks.storage.rows import execute, fetch, fetch_one, rows_as_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The result of a batch of reports: new rows, rows whose facts changed, reports without a new fact."""

    inserted: int
    updated: int
    unchanged: int


def sum_merged(parts: Iterable[Merged]) -> Merged:
    """Add up what several batches did."""
    counted = [(each.inserted, each.updated, each.unchanged) for each in parts]
    inserted, updated, unchanged = map(sum, zip(*counted, strict=True))
    return Merged(inserted=inserted, updated=updated, unchanged=unchanged)


def _rank(row: str) -> str:
    """A total order of reports, so that any order of arrival ends in the same facts.

    A stop outranks no stop, then the later observation holds; the rest only breaks ties.
    """
    finality = f"({row}.stopped_at IS NOT NULL)::int * 2 + ({row}.stopping_at IS NOT NULL)::int"
    ties = ("stopped_at", "stopping_at", "created_at")
    optional = ", ".join(f"COALESCE({row}.{column}, '-infinity')" for column in ties)
    rest = ", ".join(f"{row}.{column}" for column in ("started_at", "workspace_class", "user_id", "workspace_id"))
    return f"ROW({finality}, {row}.observed_at, {optional}, {rest})"


_FACTS = ("user_id", "workspace_id", "workspace_class", "created_at", "started_at", "stopping_at", "stopped_at")
_TOLD = ("instance_id", "attribution_id", *_FACTS, "observed_at", "source", "present")
_COLUMNS = ", ".join((*_FACTS, "observed_at"))
_NEWER = "ROW(EXCLUDED.source_seen_at, EXCLUDED.source) > ROW(held.source_seen_at, held.source)"


def _facts(row: str) -> str:
    return ", ".join(f"{row}.{column}" for column in (*_FACTS, "observed_at"))


_INTO = f"""(instance_id, attribution_id, {_COLUMNS}, last_seen_at, source, source_seen_at, missed_at, timeline,
    first_observed_at, start_reported_at)"""


def first_seen(row: str) -> str:
    """Compose when a session was first seen."""
    return f"COALESCE({row}.first_observed_at, {row}.observed_at)"


def start_reported(row: str) -> str:
    """Compose when a session's start was reported; NEVER if it is inferred."""
    return f"COALESCE({row}.start_reported_at, {first_seen(row)})"


_EARLIER = (
    f"""({first_seen("EXCLUDED")} < {first_seen("held")} OR {start_reported("EXCLUDED")} < {start_reported("held")})"""
)
_TIMELINE = joined("held.timeline", "EXCLUDED.timeline")


def merging(reports: str) -> str:
    """Compose the statement that merges rows of reports and counts them; `reports` is a query of the rows.

    Of a session's facts the greatest report's hold; its proof of life, its source and the snapshot that misses it merge
    each by itself (docs/adr/0008), and so do its timeline and its first observation. A row that contradicts the
    account, the class or the user of its session changes nothing. At most one row of a session has its `timeline`.
    A proof of life lifts the heartbeat's cap, a reported end every cap. The parameter
    `seen_at` is the instant of the snapshot that lists the rows, or null; `arrived_at` is when they came, or null: no
    row proves life later than that.
    """
    return f"""
    WITH told AS (
        SELECT r.*, GREATEST(
                   LEAST(r.observed_at, CAST(:arrived_at AS timestamptz)), CAST(:seen_at AS timestamptz)
               ) AS seen_at
        FROM ({reports}) AS r
    ), report AS (
        SELECT DISTINCT ON (r.instance_id) r.*,
               max(CASE WHEN r.stopped_at IS NULL THEN r.seen_at END) OVER same AS last_seen_at,
               max(CASE WHEN r.source IS NOT NULL THEN r.seen_at END) OVER same AS source_seen_at,
               min(r.observed_at) OVER same AS first_seen_at,
               min(CASE WHEN r.present THEN '{NEVER.isoformat()}' ELSE r.observed_at END) OVER same AS reported_at,
               first_value(r.source) OVER (
                   PARTITION BY r.instance_id ORDER BY r.source IS NULL, r.seen_at DESC, r.source COLLATE "C" DESC
               ) AS latest_source
        FROM told r
        WINDOW same AS (PARTITION BY r.instance_id)
        ORDER BY r.instance_id, {_rank("r")} DESC
    ), written AS (
        INSERT INTO workspace_instance AS held {_INTO}
        SELECT r.instance_id, r.attribution_id, {_facts("r")}, r.last_seen_at, r.latest_source, r.source_seen_at,
               s.taken_at, t.timeline, NULLIF(r.first_seen_at, r.observed_at),
               NULLIF(r.reported_at, r.first_seen_at)
        FROM report r LEFT JOIN source_snapshot s ON s.source = r.latest_source
        LEFT JOIN (SELECT instance_id, timeline FROM told WHERE timeline IS NOT NULL) AS t USING (instance_id)
        ORDER BY r.instance_id
        ON CONFLICT (instance_id) DO UPDATE SET
            ({_COLUMNS}, last_seen_at, source, source_seen_at, missed_at, capped_at, cap_reason, recorded_at, timeline,
             first_observed_at, start_reported_at) = (
                SELECT {_facts("f")}, n.last_seen_at,
                       CASE WHEN n.moved THEN EXCLUDED.source ELSE held.source END,
                       CASE WHEN n.moved THEN EXCLUDED.source_seen_at ELSE held.source_seen_at END,
                       CASE WHEN EXCLUDED.source = held.source THEN GREATEST(held.missed_at, EXCLUDED.missed_at)
                            WHEN n.moved THEN EXCLUDED.missed_at ELSE held.missed_at END,
                       CASE WHEN n.capped AND COALESCE(f.stopping_at, f.stopped_at) IS NULL THEN held.capped_at END,
                       CASE WHEN n.capped AND COALESCE(f.stopping_at, f.stopped_at) IS NULL THEN held.cap_reason END,
                       clock_timestamp(), {_TIMELINE},
                       NULLIF(n.first_seen_at, f.observed_at), NULLIF(n.reported_at, n.first_seen_at)
                FROM (
                    SELECT {_rank("EXCLUDED")} > {_rank("held")} AS greater,
                           GREATEST(held.last_seen_at, EXCLUDED.last_seen_at) AS last_seen_at,
                           LEAST({first_seen("EXCLUDED")}, {first_seen("held")}) AS first_seen_at,
                           LEAST({start_reported("EXCLUDED")}, {start_reported("held")}) AS reported_at,
                           EXCLUDED.source IS NOT NULL AND (held.source IS NULL OR {_NEWER}) AS moved,
                           held.cap_reason = 'lifetime'
                               OR EXCLUDED.last_seen_at <= held.last_seen_at
                               OR EXCLUDED.last_seen_at IS NULL AS capped
                ) AS n,
                LATERAL (
                    SELECT {_facts("EXCLUDED")} WHERE n.greater UNION ALL SELECT {_facts("held")} WHERE NOT n.greater
                ) AS f({_COLUMNS})
            )
        WHERE held.attribution_id = EXCLUDED.attribution_id AND held.workspace_class = EXCLUDED.workspace_class
            AND held.user_id = EXCLUDED.user_id AND (
            {_rank("EXCLUDED")} > {_rank("held")} OR {_EARLIER}
            OR EXCLUDED.timeline IS NOT NULL AND {_TIMELINE} IS DISTINCT FROM held.timeline
            OR held.stopped_at IS NULL AND (
                EXCLUDED.last_seen_at > held.last_seen_at
                OR EXCLUDED.source IS NOT NULL AND (held.source IS NULL OR {_NEWER})
            )
        )
        RETURNING held.instance_id, (xmax = 0) AS inserted, {_facts("held")}
    )
    SELECT count(*) FILTER (WHERE inserted) AS inserted, (
               SELECT count(*) FROM written w JOIN report r USING (instance_id)
               WHERE NOT w.inserted AND (
                   ROW({_facts("w")}) IS NOT DISTINCT FROM ROW({_facts("r")})
                   OR w.instance_id IN (SELECT instance_id FROM told WHERE timeline IS NOT NULL)
               )
           ) AS updated
    FROM written
    """


_MERGE = merging("""
    SELECT * FROM jsonb_to_recordset(CAST(:reports AS jsonb)) AS r(
        instance_id uuid, attribution_id text, user_id uuid, workspace_id text, workspace_class text,
        created_at timestamptz, started_at timestamptz, stopping_at timestamptz, stopped_at timestamptz,
        observed_at timestamptz, source text, present boolean, timeline jsonb)
""")


def lock_sessions(connection: Connection, instances: Collection[UUID]) -> None:
    """Lock those of the sessions that are known: for merges in several steps, each of which locks its own only."""
    statement = """
        SELECT FROM workspace_instance WHERE instance_id = ANY(CAST(:instances AS uuid[]))
        ORDER BY instance_id FOR NO KEY UPDATE
    """
    execute(connection, statement, instances=list(instances))


def merge_reports(
    connection: Connection,
    reports: Sequence[SessionReport],
    *,
    seen_at: datetime | None = None,
    arrived_at: datetime | None = None,
) -> Merged:
    """Write what a batch of reports adds to what is known; a final session whose bill changes is open again.

    The caller has locked the sources of the reports (`lock_sources`). With `seen_at` the batch is a snapshot of what
    ran then; with `arrived_at` no report proves life later. A report for a session of another account, class or user
    changes nothing: see `list_contradicted`.
    """
    if not reports:
        return Merged(inserted=0, updated=0, unchanged=0)
    told = rows_as_json(with_timelines(reports))
    row = fetch_one(connection, _MERGE, reports=told, seen_at=seen_at, arrived_at=arrived_at)
    return Merged(inserted=row.inserted, updated=row.updated, unchanged=len(reports) - row.inserted - row.updated)


def with_timelines(reports: Sequence[SessionReport]) -> Sequence[object]:
    """Add to the first report of each session the timeline that its reports make together; without any they stay."""
    if not any(report.segments for report in reports):
        return reports
    segments: dict[UUID, list[Segment]] = {}
    for report in reports:
        if report.segments:
            segments.setdefault(report.instance_id, []).extend(report.segments)
    rows: list[object] = []
    for report in reports:
        told = segments.pop(report.instance_id, None)
        added = None if told is None else {"timeline": encode(join(told))}
        rows.append(added | {name: getattr(report, name) for name in _TOLD} if added else report)
    return rows


def list_contradicted(connection: Connection, reports: Sequence[SessionReport]) -> frozenset[UUID]:
    """Name the sessions whose account, class at the start or user is another one than reported."""
    statement = """
        SELECT DISTINCT held.instance_id
        FROM workspace_instance held
        JOIN unnest(CAST(:instances AS uuid[]), CAST(:accounts AS text[]), CAST(:classes AS text[]),
                    CAST(:users AS uuid[])) AS r(instance_id, attribution_id, workspace_class, user_id)
            ON r.instance_id = held.instance_id
        WHERE (r.attribution_id, r.workspace_class, r.user_id)
            <> (held.attribution_id, held.workspace_class, held.user_id)
    """
    rows = fetch(
        connection,
        statement,
        instances=[report.instance_id for report in reports],
        accounts=[report.attribution_id for report in reports],
        classes=[report.workspace_class for report in reports],
        users=[report.user_id for report in reports],
    )
    return frozenset(row.instance_id for row in rows)

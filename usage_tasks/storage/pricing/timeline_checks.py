"""What `verify` asks of timelines: that they are joined, and what their sessions cost, computed in another way.

Posting joins the prices of the segments (rating_sql.py). Here each moment at which anything may change is looked at by
itself: which segment holds then by the rule of docs/adr/0034-timelines.md, and which version of its price.
"""

from typing import Final

from usage_tasks.domain.states import State

_SEGMENTS: Final = """jsonb_to_recordset(CASE jsonb_typeof({session}.timeline) WHEN 'array' THEN {session}.timeline END)
    AS g("from" {instant}, observed_at {instant}, workspace_class text, state text)"""
_AS_TEXT: Final = _SEGMENTS.format(session="w", instant="text")
_FORM: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"
_STATES: Final = ", ".join(f"'{state}'" for state in State)

NOT_JOINED: Final = f"""
    SELECT w.instance_id::text AS offender FROM workspace_instance w
    CROSS JOIN LATERAL (
        SELECT bool_and(
                   g."from" ~ '{_FORM}' AND g.observed_at ~ '{_FORM}' AND g.workspace_class <> ''
                   AND g.state IN ({_STATES}) AND COALESCE(g."from" COLLATE "C" > g.former, true)
                   AND COALESCE(g.observed_at COLLATE "C" >= g.former_observed_at, true)
               ) AS living
        FROM (
            SELECT g.*, lag(g."from") OVER rising AS former, lag(g.observed_at) OVER rising AS former_observed_at
            FROM {_AS_TEXT} WINDOW rising AS (ORDER BY g."from" COLLATE "C")
        ) AS g
    ) AS told
    WHERE w.timeline IS NOT NULL AND told.living IS NOT TRUE
"""
"""Sessions whose timeline is empty, or holds what no report can have said, or a segment that another one outdates."""


def _held(instant: str) -> str:
    """Compose the price key of a session in an instant by the rule for conflicts itself, whatever order is stored."""
    return f"""COALESCE((
        SELECT g.workspace_class || CASE g.state WHEN '{State.RUNNING}' THEN '' ELSE ':' || g.state END
        FROM {_SEGMENTS.format(session="s", instant="timestamptz")}
        WHERE g."from" <= {instant}
        ORDER BY g.observed_at DESC, g."from" DESC, g.workspace_class COLLATE "C" DESC, g.state COLLATE "C" DESC LIMIT 1
    ), s.workspace_class)"""


def _version(instant: str) -> str:
    return f"""
        SELECT v.credits_per_minute, v.minimum_cents, v.rounding_seconds FROM price_version v
        WHERE v.workspace_class = {_held(instant)} AND v.effective_from <= {instant}
        ORDER BY v.effective_from DESC LIMIT 1
    """


COSTS: Final = f"""
    SELECT s.instance_id, GREATEST(
        floor(sum(moment.seconds * price.credits_per_minute) / 60 * 100 + 0.5)::bigint,
        CASE WHEN max(s.ran) >= 0.5 THEN max(first.minimum_cents) END
    ) AS credit_cents
    FROM (
        SELECT w.instance_id, w.workspace_class, w.timeline, w.started_at, GREATEST(w.ended_at, w.started_at) AS until,
               extract(epoch FROM GREATEST(w.ended_at, w.started_at) - w.started_at) AS ran
        FROM workspace_instance w WHERE w.timeline IS NOT NULL AND w.ended_at IS NOT NULL
    ) AS s
    JOIN LATERAL ({_version("s.started_at")}) AS first ON true
    CROSS JOIN LATERAL (
        SELECT at, ceil(round(extract(epoch FROM lead(at, 1, s.until) OVER (ORDER BY at) - s.started_at))
                   / first.rounding_seconds) * first.rounding_seconds
               - ceil(round(extract(epoch FROM at - s.started_at)) / first.rounding_seconds) * first.rounding_seconds
               AS seconds
        FROM (
            SELECT s.started_at
            UNION
            SELECT g."from" FROM {_SEGMENTS.format(session="s", instant="timestamptz")}
            WHERE g."from" > s.started_at AND g."from" < s.until
            UNION
            SELECT v.effective_from FROM price_version v WHERE v.effective_from > s.started_at
                AND v.effective_from < s.until
        ) AS moments(at)
    ) AS moment
    JOIN LATERAL ({_version("moment.at")}) AS price ON true
    GROUP BY s.instance_id
"""
"""What each session with a timeline costs that has an end, (instance_id, credit_cents): moment by moment."""

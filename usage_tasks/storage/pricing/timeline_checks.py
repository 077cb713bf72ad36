"""What `verify` asks of timelines: that they are joined, and what their sessions cost, computed in another way.

Posting joins the prices of the segments (rating_sql.py). Here each moment at which anything may change is looked at by
itself: which segment holds then by the rule of docs/adr/0034-timelines.md, and which version of its price. All moments
of a session are sorted once.
"""

from typing import Final

from usage_tasks.domain.prices import State

_SEGMENTS: Final = """jsonb_to_recordset(CASE jsonb_typeof({session}.timeline) WHEN 'array' THEN {session}.timeline END)
    AS ("from" text, observed_at text, workspace_class text, state text)"""
_FORM: Final = r"^(?!0000)\d{4}-(0[1-9]|1[0-2])-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z$"
_STATES: Final = ", ".join(f"'{state}'" for state in State)


def _key(segment: str) -> str:
    state = f"{segment}.state"
    return f"{segment}.workspace_class || CASE {state} WHEN '{State.RUNNING}' THEN '' ELSE ':' || {state} END"


def _is_instant(text: str) -> str:
    """Whether a text is an instant in the stored form, of a day that exists: a cast would break the check off."""
    year, month, day = (f"substr({text}, {begin}, {length})::int" for begin, length in ((1, 4), (6, 2), (9, 2)))
    return f"""CASE WHEN {text} ~ '{_FORM}'
        THEN to_char(make_date({year}, {month}, 1) + ({day} - 1), 'YYYY-MM-DD') = left({text}, 10) END"""


NOT_JOINED: Final = f"""
    SELECT w.instance_id::text AS offender FROM workspace_instance w
    CROSS JOIN LATERAL (
        SELECT bool_and(
                   ({_is_instant('g."from"')}) IS TRUE AND ({_is_instant("g.observed_at")}) IS TRUE
                   AND g.workspace_class <> ''
                   AND EXISTS (SELECT 1 FROM price_version v WHERE v.workspace_class = {_key("g")})
                   AND g.state IN ({_STATES}) AND COALESCE(g."from" COLLATE "C" > g.former, true)
                   AND COALESCE(g.observed_at COLLATE "C" >= g.former_observed_at, true)
               ) AS living
        FROM (
            SELECT g.*, lag(g."from") OVER rising AS former, lag(g.observed_at) OVER rising AS former_observed_at
            FROM ROWS FROM ({_SEGMENTS.format(session="w")}) WITH ORDINALITY
                AS g("from", observed_at, workspace_class, state, place) WINDOW rising AS (ORDER BY g.place)
        ) AS g
    ) AS told
    WHERE w.timeline IS NOT NULL AND told.living IS NOT TRUE
"""
"""Sessions whose timeline is empty or out of order, or has what no report can have said: a segment that another one
outdates, or one without a price."""


_KEY: Final = f"""COALESCE(
    h.told[3] || CASE h.told[4] WHEN '{State.RUNNING}' THEN '' ELSE ':' || h.told[4] END, s.workspace_class
)"""
_STEPS: Final = "ceil(round(extract(epoch FROM {instant} - s.started_at)) / m.rounding_seconds) * m.rounding_seconds"

COSTS: Final = f"""
    WITH session AS (
        SELECT w.instance_id, w.workspace_class, w.timeline, w.started_at, GREATEST(w.ended_at, w.started_at) AS until
        FROM workspace_instance w WHERE w.timeline IS NOT NULL AND w.ended_at IS NOT NULL
    ), changed AS (
        SELECT s.instance_id, GREATEST(g."from"::timestamptz, s.started_at) AS at,
               ARRAY[g.observed_at, g."from", g.workspace_class, g.state] COLLATE "C" AS told
        FROM session s CROSS JOIN LATERAL ROWS FROM ({_SEGMENTS.format(session="s")}) AS g
        WHERE g."from"::timestamptz < s.until OR g."from"::timestamptz <= s.started_at
        UNION ALL
        SELECT instance_id, started_at, NULL FROM session
        UNION ALL
        SELECT s.instance_id, v.effective_from, NULL
        FROM session s JOIN (SELECT DISTINCT effective_from FROM price_version) AS v
            ON v.effective_from > s.started_at AND v.effective_from < s.until
    ), held AS (
        -- The rule for conflicts itself, whatever order is stored: the frame has every segment that began by then.
        SELECT instance_id, at, max(told) OVER (PARTITION BY instance_id ORDER BY at) AS told FROM changed
    ), moment AS (
        SELECT h.instance_id, h.at, lead(h.at, 1, s.until) OVER rising AS until, v.credits_per_minute,
               first_value(v.minimum_cents) OVER rising AS minimum_cents,
               first_value(v.rounding_seconds) OVER rising AS rounding_seconds
        FROM held h JOIN session s USING (instance_id) LEFT JOIN LATERAL (
            SELECT v.credits_per_minute, v.minimum_cents, v.rounding_seconds FROM price_version v
            WHERE v.workspace_class = {_KEY} AND v.effective_from <= h.at ORDER BY v.effective_from DESC LIMIT 1
        ) AS v ON true
        WINDOW rising AS (PARTITION BY h.instance_id ORDER BY h.at)
    )
    SELECT s.instance_id, GREATEST(
        div(100 * sum(({_STEPS.format(instant="m.until")} - {_STEPS.format(instant="m.at")}) * m.credits_per_minute)
            + 30, 60)::bigint,
        CASE WHEN s.until - s.started_at >= interval '500 ms' THEN max(m.minimum_cents) END
    ) AS credit_cents
    FROM session s JOIN moment m USING (instance_id)
    GROUP BY s.instance_id, s.started_at, s.until
"""
"""What each session with a timeline costs that has an end, (instance_id, credit_cents): moment by moment."""

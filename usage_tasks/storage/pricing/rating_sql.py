"""The rule of domain/rating.py as set-based SQL: `p` is a version while it ran, `r` the one at its start.

A session with a timeline is priced along it (docs/adr/0034); the others, nearly all, are priced as if there were none.
Property tests hold the rules equal (tests/pricing/test_rating_sql.py, tests/sessions/timelines).
"""

from usage_tasks.storage.pricing.timelines_sql import class_of_open


def seconds_until(instant: str) -> str:
    """Elapsed whole seconds since the session's start, to the nearest, half up as a cast from numeric rounds."""
    return f"extract(epoch FROM {instant} - s.started_at)::bigint"


def has_price(session: str) -> str:
    """Whether a version was in force at the start of an open session: without one it can't be rated."""
    return f"""EXISTS (
        SELECT 1 FROM price_version v
        WHERE v.workspace_class = {class_of_open(session)} AND v.effective_from <= {session}.started_at
    )"""


def charged_until(instant: str, *, rule: str = "r") -> str:
    """The same, rounded up to whole steps of the version in force at the session's start."""
    step = f"{rule}.rounding_seconds"
    return f"(({seconds_until(instant)})::bigint + {step} - 1) / {step} * {step}"


def cents(exact: str, until: str, *, rule: str = "r") -> str:
    """Compose the credit cents of a session that ran until an instant; `exact` is 10 x seconds x credits a minute."""
    return f"""GREATEST(
        div({exact} + 3, 6)::bigint, CASE WHEN {until} - s.started_at >= interval '500 ms' THEN {rule}.minimum_cents END
    )"""


_BEGIN = charged_until("GREATEST(p.effective_from, s.started_at)")
_END = charged_until("LEAST(p.effective_until, s.until)")
_SECONDS = f"GREATEST(0, {_END} - {_BEGIN})"

# Of the parts only the first one has begun by the start. The planner takes this query for dearer than a subscript, and
# so asks for the key once a session, not once a session and version.
_KEY_AT_START = """CASE WHEN s.price_keys IS NULL THEN s.workspace_class ELSE (
    SELECT g.price_key FROM unnest(s.priced_from, s.price_keys) AS g(begins_at, price_key)
    WHERE g.begins_at <= s.started_at
) END"""
STARTED = f"""
    r.workspace_class = {_KEY_AT_START} AND r.effective_from <= s.started_at
        AND (r.effective_until IS NULL OR r.effective_until > s.started_at)
"""
_WITHIN_ONE = "(r.effective_until IS NULL OR r.effective_until > GREATEST(s.until, s.started_at))"
_RAN = seconds_until("GREATEST(LEAST(s.ended_at, :at), s.started_at)")
_EXACT = f"""CASE
    WHEN s.price_keys IS NOT NULL THEN (
        SELECT sum(10 * {_SECONDS} * p.credits_per_minute) FROM (
            SELECT v.credits_per_minute, GREATEST(v.effective_from, g.begins_at) AS effective_from,
                   LEAST(v.effective_until, g.ends_at) AS effective_until
            FROM (
                SELECT unnest(s.priced_from) AS begins_at, unnest(s.priced_from[2:]) AS ends_at,
                       unnest(s.price_keys) AS price_key
            ) AS g JOIN in_force v ON v.workspace_class = g.price_key
                AND v.effective_from < COALESCE(g.ends_at, 'infinity')
                AND COALESCE(v.effective_until, 'infinity') > g.begins_at
        ) AS p
    )
    -- Most sessions lie within one version: nothing to sum.
    WHEN {_WITHIN_ONE} THEN 10 * GREATEST(0, {charged_until("s.until")}) * r.credits_per_minute
    ELSE (
        SELECT sum(10 * {_SECONDS} * p.credits_per_minute) FROM (
            SELECT v.credits_per_minute, v.effective_from,
                   lead(v.effective_from) OVER (ORDER BY v.effective_from) AS effective_until
            FROM price_version v
            WHERE v.workspace_class = s.workspace_class AND v.effective_from >= r.effective_from
                AND v.effective_from <= GREATEST(s.until, s.started_at)
        ) AS p
    )
END"""

RATED = f"""
    in_force AS MATERIALIZED (SELECT * FROM price_period), rated AS (
        SELECT s.*, {cents(_EXACT, "s.until")} AS credit_cents FROM session s JOIN in_force r ON {STARTED}
    )
"""
"""A CTE `rated`, the columns of a CTE `session` and `credit_cents`.

`session` has at least (workspace_class, priced_from, price_keys, started_at, until); the arrays are null for a session
of one segment, or `timelines_sql.priced_parts`. A session without a price in force at its start has no row: it is not
posted at a guessed one.
"""

COST_AT_MOST = f"""
    WITH top AS MATERIALIZED (
        SELECT workspace_class, max(credits_per_minute) / 0.6 AS cents_per_second, max(minimum_cents) AS minimum_cents,
               max(rounding_seconds) AS rounding_seconds
        FROM price_version WHERE effective_from < :at GROUP BY workspace_class
    )
    SELECT attribution_id, sum((seconds + sessions * rounding_seconds) * cents_per_second
               + sessions * (1 + minimum_cents)) AS credit_cents
    FROM (
        SELECT ran.attribution_id, ran.sessions, ran.seconds, top.*
        FROM (
            SELECT attribution_id, workspace_class, count(*) AS sessions, sum({_RAN}) AS seconds
            FROM open_session s WHERE started_at < :at
            GROUP BY attribution_id, workspace_class
        ) AS ran -- The class of a session with a timeline is marked, and has no price.
        JOIN top USING (workspace_class)
        UNION ALL
        SELECT s.attribution_id, 1, {_RAN}, top.*
        FROM open_session s CROSS JOIN LATERAL (
            SELECT NULL, max(cents_per_second), max(minimum_cents), max(rounding_seconds)
            FROM top WHERE workspace_class = ANY(s.price_keys)
        ) AS top
        WHERE s.started_at < :at AND s.timeline IS NOT NULL
    ) AS bounded
    GROUP BY attribution_id
"""
"""A query of (attribution_id, credit_cents): never less than what an account's open sessions cost up to `:at`.

It is the sum of their seconds at the highest price that their class, or a part of their timeline, had until then, and
for each a step, the greatest minimum and a cent: hardly more than their cost if a class has one price to the second, at
a fraction of the work of `RATED`. Posted amounts are not subtracted.
"""

"""The rule of domain/rating.py once more, as set-based SQL: `p` is a version while it ran, `r` the one at its start.

A property test holds the two equal (tests/storage/test_rating.py).
"""


def seconds_until(instant: str) -> str:
    """Elapsed whole seconds since the session's start, to the nearest, half up as a cast from numeric rounds."""
    return f"extract(epoch FROM {instant} - s.started_at)::bigint"


def _charged_until(instant: str) -> str:
    """The same, rounded up to whole steps of the version in force at the session's start."""
    return f"(({seconds_until(instant)})::bigint + r.rounding_seconds - 1) / r.rounding_seconds * r.rounding_seconds"


_BEGIN = _charged_until("GREATEST(p.effective_from, s.started_at)")
_END = _charged_until("LEAST(p.effective_until, s.until)")
_SECONDS = f"GREATEST(0, {_END} - {_BEGIN})"

_STARTED = """
    r.workspace_class = s.workspace_class AND r.effective_from <= s.started_at
        AND (r.effective_until IS NULL OR r.effective_until > s.started_at)
"""
_WITHIN_ONE = "(r.effective_until IS NULL OR r.effective_until > GREATEST(s.until, s.started_at))"


def _cents(product: str, minimum: str) -> str:
    return f"""GREATEST(
        div(10 * {product} + 3, 6)::bigint,
        {minimum}
    )"""


_MINIMUM = "CASE WHEN s.until - s.started_at >= interval '500 ms' THEN r.minimum_cents END"

RATED = f"""
    ended_period AS MATERIALIZED (
        SELECT workspace_class, effective_from, effective_until, minimum_cents, rounding_seconds
        FROM price_period WHERE effective_until IS NOT NULL
    ), spanning AS (
        SELECT s.instance_id, {_cents(f"sum({_SECONDS} * p.credits_per_minute)", f"max({_MINIMUM})")} AS credit_cents
        FROM session s
        JOIN ended_period r ON {_STARTED} AND NOT {_WITHIN_ONE}
        JOIN price_period p ON p.workspace_class = s.workspace_class
            AND p.effective_from <= GREATEST(s.until, s.started_at)
            AND (p.effective_until IS NULL OR p.effective_until > s.started_at)
        GROUP BY s.instance_id
    ), rated AS (
        -- Most sessions lie within one version: nothing to group.
        SELECT s.*, {_cents(f"(GREATEST(0, {_charged_until('s.until')}) * r.credits_per_minute)", _MINIMUM)}
                    AS credit_cents
        FROM session s JOIN price_period r ON {_STARTED} AND {_WITHIN_ONE}
        UNION ALL
        SELECT s.*, m.credit_cents FROM session s JOIN spanning m ON m.instance_id = s.instance_id
    )
"""
"""A CTE `rated`, the columns of a CTE `session` and `credit_cents`.

`session` has at least (instance_id, workspace_class, started_at, until), one row an instance; whoever rates a session
up to several instants gives each row an `instance_id` of its own. A session without a price in force at its start has
no row: it is not posted at a guessed one.
"""

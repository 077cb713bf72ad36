"""The rule of domain/rating.py once more, as set-based SQL: `p` is a version while it ran, `r` the one at its start.

A property test holds the two equal (tests/storage/test_rating.py).
"""


def _seconds_until(instant: str) -> str:
    """Elapsed whole seconds since the session's start, to the nearest, half up as a cast from numeric rounds."""
    return f"extract(epoch FROM {instant} - s.started_at)::bigint"


def _charged_until(instant: str) -> str:
    """The same, rounded up to whole steps of the version in force at the session's start."""
    return f"(({_seconds_until(instant)})::bigint + r.rounding_seconds - 1) / r.rounding_seconds * r.rounding_seconds"


_BEGIN = _charged_until("GREATEST(p.effective_from, s.started_at)")
_END = _charged_until("LEAST(p.effective_until, s.until)")
_SECONDS = f"GREATEST(0, {_END} - {_BEGIN})"

RATED = f"""
    rated AS (
        SELECT s.instance_id,
               GREATEST(
                   div(10 * sum({_SECONDS} * p.credits_per_minute) + 3, 6)::bigint,
                   max(CASE WHEN s.until - s.started_at >= interval '500 ms' THEN r.minimum_cents END)
               ) AS credit_cents
        FROM session s
        JOIN price_period r ON r.workspace_class = s.workspace_class AND r.effective_from <= s.started_at
            AND (r.effective_until IS NULL OR r.effective_until > s.started_at)
        JOIN price_period p ON p.workspace_class = s.workspace_class
            AND p.effective_from <= GREATEST(s.until, s.started_at)
            AND (p.effective_until IS NULL OR p.effective_until > s.started_at)
        GROUP BY s.instance_id
    )
"""
"""A CTE `rated(instance_id, credit_cents)` over a CTE `session(instance_id, workspace_class, started_at, until)`.

A session without a price in force has no row: it is not posted at a guessed one.
"""

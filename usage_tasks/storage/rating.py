"""The rule of domain/rating.py once more, as set-based SQL.

A property test holds the two equal (tests/storage/test_rating.py).
"""


def _seconds_until(instant: str) -> str:
    """Elapsed whole seconds since the session's start, to the nearest, half up as a cast from numeric rounds."""
    return f"extract(epoch FROM {instant} - s.started_at)::bigint"


_BEGIN = _seconds_until("GREATEST(p.effective_from, s.started_at)")
_END = _seconds_until("LEAST(p.effective_until, s.until)")

RATED = f"""
    rated AS (
        SELECT s.instance_id,
               div(10 * sum(GREATEST(0, {_END} - {_BEGIN}) * p.credits_per_minute) + 3, 6)::bigint AS credit_cents
        FROM session s
        JOIN price_period p ON p.workspace_class = s.workspace_class
            AND p.effective_from <= GREATEST(s.until, s.started_at)
            AND (p.effective_until IS NULL OR p.effective_until > s.started_at)
        GROUP BY s.instance_id
    )
"""
"""A CTE `rated(instance_id, credit_cents)` over a CTE `session(instance_id, workspace_class, started_at, until)`.

A session without a price in force has no row: it is not posted at a guessed one.
"""

"""Usage along timelines: a session with a timeline is taken apart once, and its parts are priced and summed in order.

The sum at the end of each part gives the price of the session up to there: of n segments it takes one sort of n rows,
however many groups and days a report has. Sessions without a timeline are rated by rating_sql.
"""

from collections.abc import Sequence
from typing import Final

from usage_tasks.storage.pricing.rating_sql import STARTED, cents, charged_until, seconds_until
from usage_tasks.storage.pricing.timelines_sql import pieces, priced_parts

_SPANS: Final = f"""
    period AS (
        SELECT workspace_class, effective_from, effective_until, credits_per_minute FROM in_force
        UNION ALL -- Before its first version a class costs nothing.
        SELECT workspace_class, '-infinity', min(effective_from), 0 FROM in_force GROUP BY workspace_class
    ), changing AS MATERIALIZED ( -- Else the planner may take a timeline apart once a row that it joins.
        SELECT s.*, GREATEST(s.started_at, :start) AS first, LEAST(s.ran_until, CAST(:end AS timestamptz)) AS until,
               r.minimum_cents, r.rounding_seconds
        FROM (
            SELECT ran.*, p.priced_from, p.price_keys FROM ran CROSS JOIN LATERAL ({priced_parts("ran")}) AS p
            WHERE ran.timeline IS NOT NULL
        ) AS s JOIN in_force r ON {STARTED}
    ), span AS (
        SELECT s.instance_id, s.attribution_id, s.user_id, s.workspace_id, s.started_at, s.until, s.minimum_cents,
               s.rounding_seconds, g.workspace_class, g.state, v.credits_per_minute, t.span_at, t.span_until
        FROM changing s CROSS JOIN LATERAL ({pieces("s")}) AS g
        JOIN period v ON v.workspace_class = g.price_key
        CROSS JOIN LATERAL (
            SELECT GREATEST(s.started_at, g.begins_at, v.effective_from) AS span_at,
                   LEAST(g.ends_at, v.effective_until, 'infinity') AS span_until
        ) AS t
        WHERE t.span_at < t.span_until AND (t.span_at < s.until OR t.span_at <= s.first)
    )
"""
"""CTEs that end in `span`: parts of a session of one class, state and price, without a gap from its start on."""

_DAYS: Final = """
    UNION ALL
    SELECT d.day FROM generate_series(
        date_trunc('day', GREATEST(p.span_at, :start), 'UTC'), LEAST(p.span_until, p.until), interval '24 hours'
    ) AS d(day)
    WHERE d.day > p.span_at AND d.day < LEAST(p.span_until, p.until)
"""


def along(keys: Sequence[str], *, by_day: bool) -> str:
    """Compose CTEs that end in `along`, the usage in [:start, :end) of the sessions of `ran` that have a timeline.

    Its columns are (attribution_id, user_id, workspace_id, workspace_class, state, cell, credit_cents, seconds,
    counted, is_last). A row begins at `cell`; it is of one class and state, and of one day if `by_day`. A session is
    `counted` once for each value of `keys`, expressions of the columns of `s`, and `is_last` once.
    """
    seconds = f"{charged_until('s.cell_until', rule='s')} - {charged_until('s.cell', rule='s')}"
    return f"""
    {_SPANS}, cut AS (
        SELECT p.*, c.cell, lead(c.cell, 1, p.until) OVER (PARTITION BY p.instance_id ORDER BY c.cell) AS cell_until
        FROM span p CROSS JOIN LATERAL (
            SELECT p.span_at
            UNION ALL
            SELECT :start WHERE :start > p.span_at AND :start < p.span_until
            {_DAYS if by_day else ""}
        ) AS c(cell)
    ), summed AS (
        SELECT s.*, sum(10 * ({seconds}) * s.credits_per_minute) OVER rising AS exact FROM cut s
        WINDOW rising AS (PARTITION BY s.instance_id ORDER BY s.cell, s.cell_until)
    ), priced AS (
        SELECT s.*, {cents("s.exact", "s.cell_until", rule="s")} AS credit_cents FROM summed s
    ), added AS (
        SELECT s.*, s.credit_cents - lag(s.credit_cents, 1, 0::bigint) OVER rising AS added_cents FROM priced s
        WINDOW rising AS (PARTITION BY s.instance_id ORDER BY s.cell, s.cell_until)
    ), along AS (
        SELECT s.attribution_id, s.user_id, s.workspace_id, s.workspace_class, s.state, s.cell, s.added_cents,
               {seconds_until("s.cell_until")} - {seconds_until("s.cell")} AS seconds,
               row_number() OVER (PARTITION BY {", ".join(["s.instance_id", *keys])} ORDER BY s.cell) = 1 AS counted,
               lead(s.cell) OVER (PARTITION BY s.instance_id ORDER BY s.cell) IS NULL AS is_last
        FROM added s WHERE s.cell >= :start
    )
    """

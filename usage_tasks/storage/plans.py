"""The result of a dry run: the number of rows to write, their sum, and a bounded sample of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from usage_tasks.storage.rows import fetch_one

SAMPLE_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Rows that would be written, some of them with their columns. `credit_cents` is the sum, None for no money."""

    rows: int
    credit_cents: int | None
    sample: Sequence[Mapping[str, object]]


NOTHING: Final = Plan(rows=0, credit_cents=None, sample=())


def planned(name: str, *, order: str, money: bool = False) -> str:
    """Compose the SELECT over a CTE of rows to write whose one row `run_plan` reads."""
    cents = "COALESCE(sum(credit_cents), 0)::bigint" if money else "NULL::bigint"
    return f"""
        SELECT count(*) AS rows, {cents} AS credit_cents,
               (SELECT COALESCE(jsonb_agg(to_jsonb(shown)), '[]')
                FROM (SELECT * FROM {name} ORDER BY {order} LIMIT {SAMPLE_MAX}) AS shown) AS sample
        FROM {name}
    """


def run_plan(connection: Connection, statement: str, **parameters: object) -> Plan:
    """Run a statement that ends in `planned`."""
    row = fetch_one(connection, statement, **parameters)
    return Plan(rows=row.rows, credit_cents=row.credit_cents, sample=row.sample)

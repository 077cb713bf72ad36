"""The database's work for a long timeline grows as the timeline does: its rows are counted, not its time."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import Connection, event

from tests.factories import DAY, START, team
from tests.sessions.timelines.stories import report, segment
from tests.sessions.timelines.system import NOW, System
from usage_tasks.domain.prices import ALL_TIME
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.ledger.repricing import plan_repricing
from usage_tasks.storage.ledger.usage_report import Group, Scope, sum_usage
from usage_tasks.storage.limits.account_standings import list_standings
from usage_tasks.storage.pricing.rating_sql import COST_AT_MOST
from usage_tasks.storage.rows import fetch

SEGMENTS: Final = (100, 400)
LENGTH: Final = 10 * DAY
CLASSES: Final = ("small", "large", "xlarge")


def report_by(*groups: Group) -> Callable[[Connection], object]:
    def read(connection: Connection) -> object:
        end = START + LENGTH
        return sum_usage(
            connection, Scope(account=None), start=START + DAY, end=end, at=NOW, groups=groups, after=None, limit=9
        )

    return read


OPEN: Final[dict[str, Callable[[Connection], object]]] = {
    "balance": lambda connection: get_balance(connection, team(), at=NOW),
    "upper bound": lambda connection: fetch(connection, COST_AT_MOST, at=NOW),
    "standings": lambda connection: list_standings(connection, at=START + DAY, since=None, after="", limit=9),
}
EITHER: Final[dict[str, Callable[[Connection], object]]] = {
    "usage by day": report_by(Group.DAY),
    "usage by class": report_by(Group.WORKSPACE_CLASS),
    "usage by day, class and state": report_by(Group.DAY, Group.WORKSPACE_CLASS, Group.STATE),
    "usage by user": report_by(Group.USER_ID),
    "verify": lambda connection: verify(connection, at=NOW, grace=timedelta(0)),
}
POSTED: Final[dict[str, Callable[[Connection], object]]] = {
    "balance of the past": lambda connection: get_balance(connection, team(), at=START + LENGTH / 2),
    "new prices": lambda connection: plan_repricing(connection, "xlarge", effective_from=ALL_TIME),
}


@pytest.mark.parametrize(
    ("read", "posted"),
    [
        *(pytest.param(read, False, id=f"{name}, open") for name, read in (OPEN | EITHER).items()),
        *(pytest.param(read, True, id=f"{name}, posted") for name, read in (POSTED | EITHER).items()),
    ],
)
def test_four_times_the_segments_are_at_most_four_times_the_rows(
    connection: Connection, read: Callable[[Connection], object], *, posted: bool
) -> None:
    few, many = (_rows_for(connection, number, read, posted=posted) for number in SEGMENTS)
    assert 0 < many < 5 * few


def test_many_reports_of_one_session_in_a_batch_are_one_timeline(connection: Connection) -> None:
    # Were the timeline sent with each of them, the batch would be larger than PostgreSQL's JSON may be.
    system = System(connection, {})
    begins = [START + number * timedelta(minutes=1) for number in range(2_000)]
    done = system.hear(*(report(segments=[segment(begin, "large")]) for begin in begins))
    assert (done.merged.inserted, done.merged.unchanged, done.rejections) == (1, len(begins) - 1, [])
    assert [each.begins_at for each in system.timeline()] == begins


def _rows_for(connection: Connection, segments: int, read: Callable[[Connection], object], *, posted: bool) -> float:
    with rehearsal(connection):
        system = System(connection, {})
        step = LENGTH / segments
        changes = [segment(START + number * step, CLASSES[number % len(CLASSES)]) for number in range(segments)]
        system.hear(report(stopped_at=START + LENGTH, segments=changes))
        if posted:
            system.post()
        return _rows_of(connection, lambda: read(connection))


def _rows_of(connection: Connection, work: Callable[[], object]) -> float:
    """The rows that all steps of the statements of some work produce or filter out; the statements only read."""
    statements: list[tuple[str, Any]] = []

    def keep(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        statements.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", keep)
    work()
    event.remove(connection, "before_cursor_execute", keep)
    plans = [
        connection.exec_driver_sql(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters).scalar_one()
        for statement, parameters in statements
        if statement.lstrip().startswith(("SELECT", "WITH"))
    ]
    return sum(_rows_of_step(plan["Plan"]) for (plan,) in plans)


def _rows_of_step(step: dict[str, Any]) -> float:
    once: float = sum(
        step.get(name, 0) for name in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    )
    loops: float = step["Actual Loops"]
    return once * loops + sum(_rows_of_step(each) for each in step.get("Plans", ()))

"""Killed at any step and run again, every task ends as if it had never been killed."""

import os
from itertools import groupby

import pytest
from sqlalchemy import Connection

from tests.faults.deaths import Mortals
from tests.faults.kill_matrix import WRITE, keep, lines_of_document, row_of, try_case
from tests.faults.killed_tasks import CASES, NO_CALL
from tests.stripe_world.bench import Bench
from tests.stripe_world.whole import LEASED, Whole
from usage_tasks.celery import app
from usage_tasks.runtime import Runtime
from usage_tasks.storage.rows import fetch

BY_TASK = {task: list(cases) for task, cases in groupby(sorted(CASES, key=lambda case: case.task), lambda c: c.task)}


def test_every_task_of_the_queues_that_call_stripe_is_in_the_matrix(rt: Runtime) -> None:
    app.loader.import_default_modules()
    assert {name for name in app.tasks if name.startswith(("billing.", "stripe."))} == set(BY_TASK)


def test_every_lease_ends_in_the_matrix(connection: Connection) -> None:
    leased = "SELECT table_name AS name FROM information_schema.columns WHERE column_name = 'claimed_until'"
    assert {row.name for row in fetch(connection, leased)} == set(LEASED)


@pytest.mark.holds("stripe.dispute-repeated", "lesson.retried-post")
@pytest.mark.parametrize("task", BY_TASK)
def test_killed_anywhere_and_run_again_a_task_ends_as_if_never_killed(
    bench: Bench, rt: Runtime, broker: str, mortals: Mortals, task: str
) -> None:
    app.loader.import_default_modules()
    writing = bool(os.environ.get(WRITE))
    with Whole(bench) as nothing:
        for case in BY_TASK[task]:
            nothing.restore()
            outcome = try_case(bench, rt, mortals, case, whole=writing)
            assert (outcome.calls == 0) is (task in NO_CALL)
            assert outcome.killed > 0
            line = row_of(case, outcome)
            if writing:
                keep(case, line)
            assert line in set(lines_of_document()), "docs/fault-matrix.md: python -m tests.faults.kill_matrix"

"""The guard against lost acknowledgements leaves a healthy worker alone."""

import pytest

from tests.worker.guard_run import expected, run_beside_retries
from tests.worker.workers import Workers

RETRIES = 50
LONGER_THAN_TWO_CHECKS_SECONDS = 14


@pytest.mark.timeout(120)
def test_a_task_beside_waiting_retries_runs_once_and_its_worker_keeps_its_connection(workers: Workers) -> None:
    done = run_beside_retries(workers, seconds=LONGER_THAN_TWO_CHECKS_SECONDS, retries=RETRIES)
    assert done == expected(RETRIES)

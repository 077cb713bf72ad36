"""The last step of the ledger job: balances in Redis, whose failure is counted and never the job's."""

from datetime import datetime
from typing import Literal

import structlog

from usage_tasks.domain.errors import RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.services.limits.publish_balances import PAGE, write_snapshots
from usage_tasks.telemetry.metrics import SNAPSHOT_RUNS, SNAPSHOT_WRITTEN_AT

SnapshotOutcome = Literal["written", "failed", "skipped"]

log = structlog.get_logger(__name__)


def show_balances(rt: Runtime, *, at: datetime) -> tuple[SnapshotOutcome, int]:
    """Bring the balances in Redis up to date; answer how that ended and how many accounts were written.

    The money is in the ledger by now: it is no reason to run the job again, and the next tick writes what is missing.
    """
    try:
        run = write_snapshots(rt.transaction, rt.snapshots, grace=rt.limit_policy.grace, at=at, limit=PAGE)
    except RetryableError as error:
        SNAPSHOT_RUNS.labels("failed").inc()
        log.warning("snapshot.failed", reason=str(error))
        return "failed", 0
    SNAPSHOT_RUNS.labels("written").inc()
    SNAPSHOT_WRITTEN_AT.set_to_current_time()
    log.info("snapshot.written", written=run.written, full=run.full)
    return "written", run.written

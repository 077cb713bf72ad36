"""`maintenance.*`: is everything true, and does the platform hear what it must."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from celery import current_app
from kombu.exceptions import KombuError, SerializationError
from redis.exceptions import RedisError

from usage_tasks.coordination import debounce, lock
from usage_tasks.coordination.lock import LockState
from usage_tasks.domain.errors import InvariantError, PermanentError, RetryableError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.operations.dispatch_outbox import Dispatched, dispatch
from usage_tasks.services.operations.prune import Pruned, Retention, prune
from usage_tasks.services.operations.verify_ledger import VerificationVerdict, grace_of, verify
from usage_tasks.storage.operations import outbox
from usage_tasks.storage.operations.outbox import OutboxRow
from usage_tasks.tasks.dispatching import DISPATCH, have_dispatched
from usage_tasks.tasks.jobs import Skipped, run_job
from usage_tasks.tasks.task import NEVER, task
from usage_tasks.telemetry.metrics import VERIFIED_AT, VERIFY_OFFENDERS
from usage_tasks.wire.values import Flag, Moment

_DISPATCH_LONGEST: Final = timedelta(seconds=30)
_PRUNE_LONGEST: Final = timedelta(minutes=2)
_SHOWN_MAX: Final = 10


@task(name="maintenance.verify", time_limit=timedelta(minutes=10), retry=NEVER)
def verify_ledger(
    at: Moment | None = None,
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
) -> VerificationVerdict | Skipped:
    """Check every invariant of the tables; fails, with a sample, if any is broken."""
    rt = runtime()
    grace = grace_of(rt.settings.controller_schedule) if at is None else timedelta(0)

    def work(rt: Runtime, now: datetime) -> VerificationVerdict:
        with rt.transaction() as connection:
            return verify(connection, at=now, grace=grace)

    if scheduled:
        period = rt.settings.job_schedules["maintenance.verify"]
        verdict = run_job(rt, "maintenance.verify", period, at=at, scheduled=True, work=work)
        if isinstance(verdict, Skipped):
            return verdict
    else:  # no lock: the caller gets an answer beside other runs, as nothing is written
        verdict = work(rt, rt.instant(at))
    for finding in verdict.findings:
        VERIFY_OFFENDERS.labels(finding.check).set(finding.offenders)
    VERIFIED_AT.set_to_current_time()
    if not verdict.clean:
        raise InvariantError(f"verify: {verdict.describe()}")
    return verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchAnswer:
    """How many announcements the broker took."""

    dispatched: int


@task(name=DISPATCH, time_limit=timedelta(minutes=1))
def dispatch_outbox() -> DispatchAnswer:
    """Send the platform what the outbox holds, to the queue `server`; each carries its key as the task id.

    In the order in which it was stored, by one sender at a time. At least once: after a crash in between, the same id
    comes again. Fails at the end, with their keys, if any cannot be sent.
    """
    rt = runtime()
    debounce.clear(rt.redis, DISPATCH)
    with lock.held(rt.redis, DISPATCH) as state:
        if state is LockState.TAKEN:
            return DispatchAnswer(dispatched=0)
        done = dispatch(rt.transaction, publish, alone=state is LockState.HELD, longest=_DISPATCH_LONGEST)
    # After the lock: a run that found it taken leaves to this run the announcements since its last look.
    if done.more or _is_any_left(rt, done):
        have_dispatched(rt)
    if done.refused:
        shown = "; ".join(list(done.refused.values())[:_SHOWN_MAX])
        raise PermanentError(f"outbox: {len(done.refused)} can't be sent, {done.sent} sent: {shown}")
    return DispatchAnswer(dispatched=done.sent)


def _is_any_left(rt: Runtime, done: Dispatched) -> bool:
    with rt.transaction() as connection:
        return outbox.is_any_waiting(connection, excluding=list(done.refused))


def publish(announcements: Sequence[OutboxRow]) -> Mapping[int, str]:
    """Send announcements in one batch; return why some can't be sent, by their `outbox_id`.

    The broker takes all that can be encoded, or none. Raises RetryableError if it does not take the batch.
    """
    refused = dict[int, str]()
    try:
        with current_app.producer_or_acquire() as producer, producer.batch(len(announcements)):
            for each in announcements:
                try:
                    current_app.send_task(
                        each.task,
                        kwargs=json.loads(each.payload),
                        task_id=each.key,
                        queue="server",
                        ignore_result=True,
                        producer=producer,
                    )
                except (TypeError, ValueError, RecursionError, SerializationError) as error:
                    refused[each.outbox_id] = f"{each.key}: {error}"
    except (KombuError, RedisError) as error:
        raise RetryableError(f"broker: {type(error.__cause__ or error).__name__}") from error
    return refused


@task(name="maintenance.prune", time_limit=timedelta(minutes=4))
def prune_history(
    at: Moment | None = None,
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
) -> Pruned | Skipped:
    """Delete history that is older than the settings keep it; what there is no time for is left to the next run."""
    rt = runtime()
    kept = rt.settings.retention
    retention = Retention(job_runs=kept.job_runs, sent_announcements=kept.sent_announcements)

    def work(fenced: Runtime, now: datetime) -> Pruned:
        return prune(fenced.transaction, retention, at=now, longest=_PRUNE_LONGEST)

    period = rt.settings.job_schedules["maintenance.prune"]
    return run_job(rt, "maintenance.prune", period, at=at, scheduled=scheduled, work=work)

"""Send reports of sessions, and wait until they are recorded."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from celery import Celery
from celery.result import denied_join_result
from celery.states import READY_STATES, SUCCESS
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from usage_tasks_client.batches import BATCH, Batch, Recorded, Report, UnconfirmedError, prepare
from usage_tasks_client.broker import check_broker, refuse_cluster

TASK: Final = "usage.record_instances"
QUEUE: Final = "usage"
IN_FLIGHT_MAX: Final = 20
"""How many batches are under way at once: a broker is no place to store a million reports."""
_POLL_SECONDS: Final = 0.005

_AWAY = (OperationalError, RedisError, OSError)
"""The broker or the result backend is away, or has just been."""


def record(
    app: Celery,
    reports: Sequence[Report],
    *,
    actor: str,
    at: datetime | None = None,
    confirm_seconds: float = 30,
    attempts: int = 10,
) -> Recorded:
    """Send reports and wait until each batch is confirmed; return the sum of the answers.

    The shape of a report is that of `usage.record_instances`. A report without `observed_at` is stamped with
    the present; with it, the same reports have the same task ids in every process. Each attempt waits
    `confirm_seconds` for all the batches that are under way. Raises UnconfirmedError, which names
    what is not confirmed, and WrongBrokerError if the broker is not one to send to.
    """
    total = Recorded()
    for begin in range(0, len(reports), BATCH * IN_FLIGHT_MAX):
        part = reports[begin : begin + BATCH * IN_FLIGHT_MAX]
        batches = [replace(each, begin=begin + each.begin) for each in prepare(part, actor=actor, at=at)]
        send(app, batches)
        total = _sum(total, confirm(app, batches, confirm_seconds=confirm_seconds, attempts=attempts, before=total))
    return total


def record_unconfirmed(
    app: Celery, reports: Sequence[Report], *, actor: str, at: datetime | None = None
) -> Sequence[Batch]:
    """Send reports without waiting, and return what was sent: for heartbeats, which the next one makes up for."""
    batches = prepare(reports, actor=actor, at=at)
    check_broker(app)
    for batch in batches:
        app.send_task(TASK, kwargs=dict(batch.arguments), task_id=batch.task_id, queue=QUEUE, ignore_result=True)
    return batches


def send(app: Celery, batches: Sequence[Batch]) -> None:
    """Send batches for `confirm`, which sends again what the broker did not take."""
    for batch in batches:
        _publish(app, batch, forget=True)  # the answer of an earlier run is no answer to this one


def confirm(
    app: Celery,
    batches: Sequence[Batch],
    *,
    confirm_seconds: float = 30,
    attempts: int = 10,
    before: Recorded | None = None,
) -> Recorded:
    """Wait for the answers of batches that were sent, send again where none comes, and return the sum.

    Raises UnconfirmedError; its `recorded` holds what was confirmed, `before` included.
    """
    total, reasons = Recorded(), {f"no answer after {attempts} attempts of {confirm_seconds:g} s"}
    open_batches = list(batches)
    for attempt in range(1, attempts + 1):
        if attempt > 1:
            for batch in open_batches:
                _publish(app, batch, forget=False)
        still_open = []
        give_up_at = time.monotonic() + confirm_seconds
        for batch in open_batches:
            answer, reason = _answer(app, batch, until=give_up_at)
            if answer is not None:
                total = _sum(total, _shifted(answer, batch.begin))
                continue
            still_open.append(batch)
            reasons |= {reason} if reason else set()
        open_batches = still_open
        if not open_batches:
            return total
    raise UnconfirmedError(
        open_batches, recorded=_sum(before or Recorded(), total), reason=", ".join(sorted(reasons, key=len))
    )


def _publish(app: Celery, batch: Batch, *, forget: bool) -> None:
    try:
        check_broker(app)
        if forget:
            app.backend.forget(batch.task_id)
        # Answers are polled: Celery's subscription does not survive a broker that goes away.
        with denied_join_result():
            app.send_task(TASK, kwargs=dict(batch.arguments), task_id=batch.task_id, queue=QUEUE)
    except _AWAY as error:
        refuse_cluster(error)
        return  # This batch stays unconfirmed, and is sent again.


def _answer(app: Celery, batch: Batch, *, until: float) -> tuple[Mapping[str, Any] | None, str]:
    """Wait for an answer. A failed task gives a reason instead; its result is forgotten so that it can run again."""
    reason = ""
    while True:
        try:
            meta = app.backend.get_task_meta(batch.task_id, cache=False)
            if meta["status"] == SUCCESS:
                return meta["result"], ""
            if meta["status"] in READY_STATES:
                app.backend.forget(batch.task_id)
                return None, f"{type(meta['result']).__name__}: {str(meta['result'])[:300]}"
        except _AWAY as error:
            reason = f"{type(error).__name__}: {str(error)[:300]}"
        if time.monotonic() >= until:
            return None, reason
        time.sleep(_POLL_SECONDS)


def _shifted(answer: Mapping[str, Any], begin: int) -> Recorded:
    rejections = tuple({**each, "index": each["index"] + begin} for each in answer["rejections"])
    return Recorded(**{**answer, "rejections": rejections})


def _sum(one: Recorded, other: Recorded) -> Recorded:
    return Recorded(
        inserted=one.inserted + other.inserted,
        updated=one.updated + other.updated,
        unchanged=one.unchanged + other.unchanged,
        quarantined=one.quarantined + other.quarantined,
        rejections=(*one.rejections, *other.rejections),
    )

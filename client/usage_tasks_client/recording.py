"""Send reports of sessions, and wait until they are recorded."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from celery import Celery
from celery.result import denied_join_result
from celery.states import READY_STATES, SUCCESS
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from usage_tasks_client.batches import BATCH, Batch, Recorded, RefusedError, Report, UnconfirmedError, prepare
from usage_tasks_client.broker import check_backend, check_broker, describe_silence, refuse_cluster

TASK: Final = "usage.record_instances"
QUEUE: Final = "usage"
IN_FLIGHT_MAX: Final = 20
"""How many batches are under way at once: a broker is no place to store a million reports."""
_POLL_SECONDS: Final = 0.005

_AWAY = (OperationalError, RedisError, OSError)
"""The broker or the result backend is away, or has just been."""

_REFUSALS: Final = frozenset({"AccessError", "ArgumentsError", "InvalidInputError", "NoSuchError"})
"""The errors of usage-tasks that the same message gets again."""


class _Answer(NamedTuple):
    """The answer of a batch, or the reason why there is none; `refused` if there will never be another one."""

    recorded: Mapping[str, Any] | None = None
    reason: str = ""
    refused: bool = False


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
    what is not confirmed; RefusedError, at once, if the installation refuses a batch; WrongBrokerError if the broker is
    not one to send to or the answers cannot be read.
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
    """Send batches for `confirm`, which sends again what the broker did not take. Raises WrongBrokerError."""
    check_backend(app)
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

    Raises UnconfirmedError, and RefusedError at once for a batch that is refused; their `recorded` holds what was
    confirmed, `before` included. Raises WrongBrokerError as `send` does.
    """
    check_backend(app)
    total, reasons = Recorded(), {f"no answer after {attempts} attempts of {confirm_seconds:g} s"}
    open_batches = list(batches)
    for attempt in range(1, attempts + 1):
        if attempt > 1:
            for batch in open_batches:
                _publish(app, batch, forget=False)
        still_open: list[Batch] = []
        give_up_at = time.monotonic() + confirm_seconds
        for number, batch in enumerate(open_batches, start=1):
            answer = _answer(app, batch, until=give_up_at)
            if answer.recorded is not None:
                total = _sum(total, _shifted(answer.recorded, batch.begin))
                continue
            if answer.refused:
                others = [*still_open, *open_batches[number:]]
                so_far = _sum(before or Recorded(), total)
                raise RefusedError([batch, *others], recorded=so_far, reason=f"refused with {answer.reason}")
            still_open.append(batch)
            reasons |= {answer.reason} - {""}
        open_batches = still_open
        if not open_batches:
            return total
    reasons |= {describe_silence(app)} - {""}
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


def _answer(app: Celery, batch: Batch, *, until: float) -> _Answer:
    """Wait for an answer. A failed task gives a reason instead; its result is forgotten so that it can run again."""
    reason = ""
    while True:
        try:
            meta = app.backend.get_task_meta(batch.task_id, cache=False)
            if meta["status"] == SUCCESS:
                return _Answer(recorded=meta["result"])
            if meta["status"] in READY_STATES:
                app.backend.forget(batch.task_id)
                kind = type(meta["result"]).__name__
                return _Answer(reason=f"{kind}: {str(meta['result'])[:300]}", refused=kind in _REFUSALS)
        except _AWAY as error:
            reason = f"{type(error).__name__}: {str(error)[:300]}"
        if time.monotonic() >= until:
            return _Answer(reason=reason)
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

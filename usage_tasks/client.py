"""The sender's helper: report sessions to the ledger, and know that they arrived; tell it of users and teams.

A broker on Redis can lose a message when a worker is killed (docs/adr/0004). So a sender waits for the answer and sends
again under the same task ids when none comes; recording twice is recording once. Any Celery application that shares
the broker, the result backend and their `global_keyprefix` will do; nothing else of the system is needed.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from celery import Celery
from celery.result import denied_join_result
from celery.states import READY_STATES, SUCCESS
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

TASK: Final = "usage.record_instances"
QUEUE: Final = "usage"
BATCH: Final = 1_000
IN_FLIGHT_MAX: Final = 20
"""How many batches are under way at once: a broker is no place to store a million reports."""
_MEMBERS_MAX: Final = 20_000
_POLL_SECONDS: Final = 0.005
_NAMED_MAX: Final = 5

_AWAY = (OperationalError, RedisError, OSError)
"""The broker or the result backend is away, or has just been."""

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Reports on their way as one message: its task id, its arguments, and where in the caller's list it begins."""

    task_id: str
    arguments: Mapping[str, Any]
    begin: int

    def __str__(self) -> str:
        return f"reports {self.begin} to {self.begin + len(self.arguments['instances']) - 1} (task {self.task_id})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of the reports; a rejection has the index in the caller's list, the field and the reason."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    quarantined: int = 0
    rejections: tuple[Mapping[str, Any], ...] = ()


class UnconfirmedError(Exception):
    """Nobody said that these batches were recorded. They may have been: send them again, it does no harm."""

    def __init__(self, batches: Sequence[Batch], *, recorded: Recorded, reason: str) -> None:
        shown = "; ".join(map(str, batches[:_NAMED_MAX]))
        more = f" and {len(batches) - _NAMED_MAX} more" if len(batches) > _NAMED_MAX else ""
        super().__init__(f"{len(batches)} batches are unconfirmed, {reason}: {shown}{more}")
        self.batches = batches
        self.recorded = recorded


def record(
    app: Celery,
    reports: Sequence[Report],
    *,
    actor: str,
    at: datetime | None = None,
    confirm_seconds: float = 30,
    attempts: int = 10,
) -> Recorded:
    """Send reports and wait until each batch is confirmed; answer what became of them, added up.

    The shape of a report is that of `usage.record_instances`. One without `observed_at` is stamped with the present;
    with it, the same reports have the same task ids in every process. Each attempt waits `confirm_seconds` for all the
    batches that are under way. Raises UnconfirmedError, which names what is not confirmed.
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
    """Send reports and forget them: for heartbeats, which the next one makes up for. Answer what was sent."""
    batches = prepare(reports, actor=actor, at=at)
    for batch in batches:
        app.send_task(TASK, kwargs=dict(batch.arguments), task_id=batch.task_id, queue=QUEUE, ignore_result=True)
    return batches


def prepare(reports: Sequence[Report], *, actor: str, at: datetime | None = None) -> Sequence[Batch]:
    """Cut reports into batches whose task ids follow from what they hold."""
    now = datetime.now(UTC).isoformat()
    stamped = [{**report, "observed_at": report.get("observed_at") or _text(at) or now} for report in reports]
    return [_batch(stamped[begin : begin + BATCH], begin, actor, at) for begin in range(0, len(stamped), BATCH)]


def send(app: Celery, batches: Sequence[Batch]) -> None:
    """Send batches that are to be confirmed. One that the broker did not take is sent again by `confirm`."""
    for batch in batches:
        _publish(app, batch, forget=True)  # an answer of an earlier run says nothing of this one


def confirm(
    app: Celery,
    batches: Sequence[Batch],
    *,
    confirm_seconds: float = 30,
    attempts: int = 10,
    before: Recorded | None = None,
) -> Recorded:
    """Wait until batches that were sent are answered, sending again those that are not; answer the sum.

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


def tell_users(app: Celery, users: Sequence[Report], *, actor: str) -> None:
    """Tell the directory of users and forget it: telling all of them again now and then makes up for what got lost.

    The shape of each is that of `directory.upsert_users`. E-mails stay out of the headers of the messages, which
    whoever watches the events can read.
    """
    for begin in range(0, len(users), BATCH):
        _tell(app, "upsert_users", {"users": list(users[begin : begin + BATCH]), "actor": actor})


def tell_teams(app: Celery, teams: Sequence[Report], *, actor: str) -> None:
    """Tell the directory of teams, each with all its members, and forget it, as of users."""
    batch: list[Report] = []
    members = 0
    for team in teams:
        if batch and (len(batch) == BATCH or members + len(team["members"]) > _MEMBERS_MAX):
            _tell(app, "upsert_teams", {"teams": batch, "actor": actor})
            batch, members = [], 0
        batch.append(team)
        members += len(team["members"])
    if batch:
        _tell(app, "upsert_teams", {"teams": batch, "actor": actor})


def _tell(app: Celery, what: str, arguments: Mapping[str, Any]) -> None:
    hidden: dict[str, Any] = {"argsrepr": "(hidden)", "kwargsrepr": "(hidden)"}
    app.send_task(f"directory.{what}", kwargs=dict(arguments), queue="directory", ignore_result=True, **hidden)


def _batch(instances: Sequence[Report], begin: int, actor: str, at: datetime | None) -> Batch:
    arguments = {"instances": list(instances), "actor": actor} | ({} if at is None else {"at": _text(at)})
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
    return Batch(task_id=f"record-{digest[:40]}", arguments=arguments, begin=begin)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _publish(app: Celery, batch: Batch, *, forget: bool) -> None:
    try:
        if forget:
            app.backend.forget(batch.task_id)
        # Answers are asked for, not subscribed to: Celery's subscription does not survive a broker that goes away.
        with denied_join_result():
            app.send_task(TASK, kwargs=dict(batch.arguments), task_id=batch.task_id, queue=QUEUE)
    except _AWAY:
        return  # This batch stays unconfirmed, and is sent again.


def _answer(app: Celery, batch: Batch, *, until: float) -> tuple[Mapping[str, Any] | None, str]:
    """Wait for one answer; a task that failed is no answer, but a reason, and is forgotten so that it can run again."""
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

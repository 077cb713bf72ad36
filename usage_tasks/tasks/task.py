"""How every task runs: arguments checked, its caller admitted, ids bound into the logs, one line an outcome."""

import hashlib
import json
import logging
import random
import time
from collections import UserDict
from collections.abc import Callable, Mapping
from contextvars import Token
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import structlog
from celery import Task, shared_task, signals
from celery.exceptions import Reject
from kombu.exceptions import OperationalError
from pydantic import TypeAdapter, ValidationError, validate_call
from redis.exceptions import RedisError

from usage_tasks.coordination import ticks
from usage_tasks.domain.access import AccessError
from usage_tasks.domain.errors import InvariantError, PermanentError, RetryableError
from usage_tasks.runtime import runtime
from usage_tasks.settings import SettingsError
from usage_tasks.storage.announced import take_committed
from usage_tasks.tasks.access import Needs, guard
from usage_tasks.tasks.dispatching import have_dispatched
from usage_tasks.tasks.naming import with_names
from usage_tasks.telemetry.headers import REQUEST_ID, TICK
from usage_tasks.telemetry.metrics import ACCESS_REFUSED, ROWS, TASK_SECONDS
from usage_tasks.wire.problems import describe
from usage_tasks.worker.clocks import watch_clocks
from usage_tasks.worker.heartbeat import add_heartbeat
from usage_tasks.worker.poison import check_redelivery, forget_redeliveries, set_aside
from usage_tasks.worker.requests import WatchedTask
from usage_tasks.worker.unreadable import guard_worker
from usage_tasks.worker.upkeep import add_upkeep
from usage_tasks.worker.waiting import ARGUMENT_DIGESTS, MessageWaits, is_refused_in_vain, may_wait

log = structlog.get_logger(__name__)

# Here, for only a worker imports tasks: application and receiver stay light.
signals.worker_init.connect(guard_worker)
signals.worker_init.connect(add_heartbeat)
signals.worker_init.connect(add_upkeep)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Schemas(UserDict[str, Any]):
    """JSON Schemas by name. Each is set as a function, which makes it when it is read: 50 of them take 30 ms.

    A worker starts with every task, and reads the schema of a message that waits only.
    """

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return the schema."""
        schema: dict[str, Any] = self.data[name]()
        return schema


ARGUMENT_SCHEMAS: Final = Schemas()
"""The JSON Schema of each task's arguments, by its name."""


class TaskDeclaration(NamedTuple):
    """A task as it is declared, for its page in docs/reference."""

    function: Callable[..., object]
    needs: Needs | None
    time_limit: timedelta
    attempts_max: int


DECLARATIONS: dict[str, TaskDeclaration] = {}
"""Every task by its name. A task is declared when its module is imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently a task is tried again after a RetryableError: doubling, jittered, capped."""

    attempts_max: int
    first: timedelta
    longest: timedelta

    def countdown_seconds(self, retries: int, *, asked: timedelta | None = None) -> float:
        """How long to wait before the next attempt: between half the step and the whole, and no less than was asked.

        Never longer than the longest step: a waiting message is not to outlast the broker's patience.
        """
        doublings = min(retries, 16)
        step = min(self.longest.total_seconds(), self.first.total_seconds() * (1 << doublings))
        return max(step * random.uniform(0.5, 1), min(asked or timedelta(0), self.longest).total_seconds())


DATABASE: Final = Retry(attempts_max=30, first=timedelta(seconds=1), longest=timedelta(seconds=60))
"""Outlasts twelve minutes without a database. Each wait is well below the broker's visibility timeout, beyond which a
waiting message would run twice.
"""

LOST_WORKER_ATTEMPTS_MAX: Final = 8
"""How often a task that killed its child is tried again: each attempt costs a process and what it was working on."""

LOST_WORKER_DELAY_SECONDS: Final = 10
"""How long a task waits that killed its child, before another one takes it; Celery's own default is 3 minutes."""

_ACCOUNT_LENGTH_MAX: Final = 64

NEVER: Final = Retry(attempts_max=0, first=timedelta(0), longest=timedelta(0))

_DIGEST_LENGTH: Final = 12
_UNKNOWN: Final = frozenset({"unexpected_keyword_argument", "unexpected_positional_argument", "extra_forbidden"})
_MISSING: Final = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})
"""The types of pydantic's errors: an unknown argument or field, and a missing argument."""

_NAME_LENGTH_MAX: Final = 200
_PROBLEMS_MAX: Final = 100
"""Names of arguments are the sender's: the error goes into the log, and into Redis as the answer."""

_ANSWER_LENGTH_MAX: Final = 1024
_HIDDEN: Final[Mapping[str, Any]] = {"argsrepr": "(hidden)", "kwargsrepr": "(hidden)"}
"""Otherwise the headers of the message, and so its events, show the arguments."""


class ArgumentsError(PermanentError):
    """A task was called with arguments that it does not take; the message names each.

    `unknown`: there are arguments that this version does not know, and no known argument has a bad value.
    """

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class UsageTask(WatchedTask):
    """A task whose message may name any argument: an unknown one is refused by its name, `self` like another."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the task. Celery's own method has a parameter `self`, which an argument of that name would hit."""
        return self.run(*args, **kwargs) if "self" in kwargs else super().__call__(*args, **kwargs)


def task(
    *,
    name: str,
    time_limit: timedelta,
    retry: Retry = DATABASE,
    needs: Needs | None = None,
    answer_shown: bool = True,
    names_shown: bool = True,
) -> Callable[[Callable[Parameters, Result]], "Task[Parameters, object]"]:
    """Declare a task: its name on the wire, how long it may run, how it is retried, what its actor must be.

    A task that takes an actor or an account must declare its `needs`; others are the installation's own. A hidden
    answer goes to the caller only, not into the worker's log or Flower. An answer to an actor shows names beside ids,
    for one query more; one that programs ask for often goes without. Announcements that it stored are sent as soon as
    it ends, however it does.

    The soft limit is nine tenths of the hard one. Both hold on prefork workers only.
    """

    def declare(function: Callable[Parameters, Result]) -> "Task[Parameters, object]":
        checked = validate_call(with_names(guard(name, function, needs), shown=names_shown))
        ARGUMENT_SCHEMAS[name] = schema = cache(lambda: _schema_of(checked))
        ARGUMENT_DIGESTS[name] = cache(lambda: _digest_of(schema()))
        DECLARATIONS[name] = TaskDeclaration(function, needs, time_limit, retry.attempts_max)

        def run(self: "Task[Parameters, object]", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> object:
            try:
                return _run(self, checked, retry, args, kwargs)
            finally:
                if take_committed():
                    have_dispatched(runtime())

        run.__doc__, run.__module__, run.__name__ = function.__doc__, function.__module__, function.__name__
        seconds = time_limit // timedelta(seconds=1)
        return shared_task(
            base=UsageTask,
            name=name,
            bind=True,
            typing=False,
            max_retries=min(retry.attempts_max, LOST_WORKER_ATTEMPTS_MAX),
            time_limit=seconds,
            default_retry_delay=LOST_WORKER_DELAY_SECONDS,
            soft_time_limit=seconds * 9 // 10,
            throws=(PermanentError, SettingsError),
            resultrepr_maxsize=_ANSWER_LENGTH_MAX if answer_shown else 0,
        )(run)

    return declare


def _schema_of(checked: Any) -> dict[str, Any]:
    return TypeAdapter(checked).json_schema()


def _digest_of(schema: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]


def _run(
    self: "Task[Any, Any]",
    checked: Callable[..., object],
    retry: Retry,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> object:
    name, request = str(self.name), self.request  # looked up once: it is a stack of its thread's
    structlog.contextvars.clear_contextvars()
    bound = _bind(request, name, kwargs)
    started = time.perf_counter()
    outcome = "failed"
    try:
        if getattr(request, TICK, False):
            ticks.note_begun(runtime().redis, name)
        check_redelivery(request, name)
        summary = _checked_call(checked, args, kwargs)
        outcome = "done"
    except (RetryableError, RedisError, OperationalError) as error:
        busy = _as_retryable(error)
        outcome = "retried" if request.retries < retry.attempts_max else "exhausted"
        if outcome == "exhausted":
            _set_aside_unnoticed(request, name, f"{request.retries + 1} attempts: {busy}")
        forget_redeliveries(request)
        raise _try_again(self, busy, retry) from error
    except InvariantError as error:
        _set_aside_unnoticed(request, name, str(error))
        raise
    except (PermanentError, SettingsError) as error:
        outcome = "waits" if isinstance(error, ArgumentsError) and error.unknown and may_wait(request) else "refused"
        if outcome == "waits":
            raise MessageWaits(str(error)) from None
        _refuse(request, name, error)
        raise
    finally:
        elapsed = time.perf_counter() - started
        TASK_SECONDS.labels(name, outcome).observe(elapsed)
        if outcome != "done":
            log.info("task.ended", outcome=outcome, duration_seconds=round(elapsed, 4))
        structlog.contextvars.unbind_contextvars("retries")
    counts = _count_rows(name, summary)
    log.info("task.ended", outcome=outcome, duration_seconds=round(elapsed, 4), **counts)
    watch_clocks()
    structlog.contextvars.reset_contextvars(**bound)
    return summary


def _as_retryable(error: Exception) -> RetryableError:
    """Return the error, or what Redis or the broker answered, as an error after which a task is tried again.

    Any error answer of Redis means that it is away, for a task that needs it or sends another one (docs/adr/0029).
    """
    return error if isinstance(error, RetryableError) else RetryableError(f"redis: {type(error).__name__} {error}")


def _try_again(task: "Task[Any, Any]", error: RetryableError, retry: Retry) -> BaseException:
    """Send the next attempt, and return what ends this one.

    If the broker does not take it, Celery would drop the message: it goes back to its queue instead, or stays
    unacknowledged if the broker takes nothing at all.
    """
    wait = retry.countdown_seconds(task.request.retries, asked=error.retry_after)
    try:
        return task.retry(exc=error, countdown=wait, max_retries=retry.attempts_max, **_HIDDEN)
    except Reject:
        return Reject("the broker does not take the next attempt", requeue=True)


def _refuse(request: Any, name: str, error: PermanentError | SettingsError) -> None:
    """Note a refusal; keep a message that a newer version may know, so that an operator can send it again.

    A missing setting is a refusal too: for a person to mend, and no bug whose traceback is wanted.
    """
    if isinstance(error, AccessError):
        ACCESS_REFUSED.labels(name).inc()
    if isinstance(error, ArgumentsError) and error.unknown and is_refused_in_vain(request):
        set_aside(request.id, name, request.args, request.kwargs, str(error))
    # A direct caller, such as a command, gets the error itself and shows it.
    reason = error.line if isinstance(error, SettingsError) else str(error)
    log.log(logging.INFO if request.called_directly else logging.WARNING, "task.refused", reason=reason)


def _set_aside_unnoticed(request: Any, name: str, reason: str) -> None:
    """Keep a message that failed for good as a dead letter, if nobody else would notice or send it again.

    A sender that waits for the answer gets the failure. The work of a tick is done by the next one; the tick of a beat
    of an earlier version expires. A message without arguments only asks for work that a sweep finds too.
    """
    by_beat = request.expires or getattr(request, TICK, False)
    noticed = request.called_directly or not request.ignore_result or by_beat
    if not noticed and (request.args or request.kwargs):
        set_aside(request.id, name, request.args, request.kwargs, reason)


def _bind(request: Any, name: str, kwargs: Mapping[str, object]) -> Mapping[str, Token[Any]]:
    """Bind into every line of the task's log: its ids, its sender's request, the account that it is about.

    Returns the tokens that undo it.
    """
    account = kwargs.get("attribution_id")
    return structlog.contextvars.bind_contextvars(
        task=name,
        task_id=request.id,
        request_id=getattr(request, REQUEST_ID, None) or request.id,
        retries=request.retries,
        **({"attribution_id": account} if isinstance(account, str) and len(account) <= _ACCOUNT_LENGTH_MAX else {}),
    )


def _checked_call(checked: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    try:
        return checked(*args, **kwargs)
    except ValidationError as error:
        # Texts are left out, except in errors of a choice or a validator: an argument may hold a secret.
        found = error.errors(include_url=False)
        problems = "; ".join(
            f"`{'.'.join(map(str, each['loc']))[:_NAME_LENGTH_MAX] or 'arguments'}`: {describe(each, hidden=True)}"
            for each in found[:_PROBLEMS_MAX]
        )
        if len(found) > _PROBLEMS_MAX:
            problems += f"; and {len(found) - _PROBLEMS_MAX} more"
        kinds = {each["type"] for each in found}
        # A newer version may do without an argument that is missing here; a bad value stays bad.
        unknown = bool(kinds & _UNKNOWN) and kinds <= _UNKNOWN | _MISSING
        raise ArgumentsError(problems, unknown=unknown) from None


def _count_rows(name: str, summary: object) -> dict[str, int]:
    """Return the whole numbers of a summary by name: counts of work done."""
    if not isinstance(summary, dict):
        return {}
    counts = {key: value for key, value in summary.items() if isinstance(value, int) and not isinstance(value, bool)}
    for what, rows in counts.items():
        if rows > 0 and not what.endswith("_cents"):
            ROWS.labels(name, what).inc(rows)
    return counts

"""Messages of a newer version: kept until a worker can do them (docs/adr/0025).

A worker that does not know a task, or one of its arguments, keeps the message. A worker that knows more of the task
sends it again. A sender who wants the answer gets the refusal, for an unknown argument at once and for an unknown task
after a while, and the message becomes a dead letter.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from celery.exceptions import Ignore
from kombu.exceptions import DecodeError, OperationalError
from redis.exceptions import RedisError

from usage_tasks.coordination import waiting_messages
from usage_tasks.coordination.broker_clock import read_redis_clock
from usage_tasks.coordination.celery_internals.routing import list_consumed_queues
from usage_tasks.coordination.waiting_messages import StoredEntry, WaitingMessage
from usage_tasks.worker.poison import set_aside
from usage_tasks.worker.quick_redis import quick_redis

log = structlog.get_logger(__name__)

ARGUMENT_DIGESTS: Final[dict[str, Callable[[], str]]] = {}
"""What returns the digest of the schema of each task's arguments in this version, by the task's name."""

ANSWER_AFTER: Final = timedelta(seconds=15)
"""How long a sender who waits for an answer is kept waiting for a worker of a newer version: about ten rounds."""

_TRIED_AGAIN_AFTER_SECONDS: Final = 2
_REFUSED_BY: Final = "usage_refused_by"
_WAITS_SINCE: Final = "usage_waits_since"
_LAST_ROUND: Final = "usage_last_round"


class MessageWaits(Ignore):
    """The task does not know one of its arguments: its message is to wait for a worker of a newer version."""


def may_wait(request: Any) -> bool:
    """True if a task that runs may raise MessageWaits: it came in a message, and its sender does not want the answer.

    A sender who wants the answer gets the refusal at once: it is a typing error more often than a newer version.
    """
    return request.delivery_info is not None and bool(request.ignore_result)


def is_refused_in_vain(request: Any) -> bool:
    """True if the message of a refused call must be kept: it came in a message and its sender gets the refusal."""
    return request.delivery_info is not None and not request.called_directly


def keep_waiting(app: Any, message: Any, *, reason: str) -> bool:
    """Keep a message that this version cannot do; return False if it is no such message, so that Celery refuses it.

    Raises RedisError.
    """
    content = _content_of(app, message)
    if content is None:
        return False
    headers = content["headers"]
    arguments, named, _ = content["body"]
    refused_by = {*_texts(headers.get(_REFUSED_BY)), *filter(None, [_digest_of(headers["task"])])}
    headers[_REFUSED_BY] = sorted(refused_by)
    if _instant(headers.get(_WAITS_SINCE)) is None:
        headers[_WAITS_SINCE] = _now().isoformat()
        log.warning("message.waits", task=headers["task"], task_id=headers["id"], reason=reason)
    waiting = WaitingMessage(
        task_id=headers["id"],
        task=headers["task"],
        queue=content["queue"],
        args=len(arguments),
        kwargs=sorted(named),
        reason=reason,
        refused_by=headers[_REFUSED_BY],
        answer_awaited=not headers.get("ignore_result"),
        expires=headers.get("expires") if _instant(headers.get("expires")) else None,
        waits_since=headers[_WAITS_SINCE],
    )
    waiting_messages.keep_message(quick_redis(), waiting, content)
    return True


def take_unknown_task(consumer: Any, message: Any, discard: Callable[[], None]) -> None:
    """Keep a message whose task this worker does not know, and acknowledge it; discard it if it cannot be kept."""
    reason = f"no task of the name {message.headers.get('task')} in this version"
    try:
        if message.headers.get(_LAST_ROUND) and (content := _content_of(consumer.app, message)):
            arguments, named, _ = content["body"]
            set_aside(content["headers"]["id"], content["headers"]["task"], arguments, named, reason)
        elif keep_waiting(consumer.app, message, reason=reason):
            message.ack_log_error(log, consumer.connection_errors)
            return
    except RedisError as error:
        log.warning("message.not_kept", reason=str(error))
        give_back = (log, (*consumer.connection_errors, RedisError), True)
        consumer.timer.call_after(_TRIED_AGAIN_AFTER_SECONDS, message.reject_log_error, give_back)
        return
    discard()


class WaitingRoom:
    """Sends the messages that wait for this version of a worker, a page of the list at a time."""

    def __init__(self) -> None:
        self._cursor = 0

    def look(self, app: Any) -> None:
        """Send again the messages of one page that this worker can do, or whose sender is to get an answer."""
        try:
            self._cursor, entries = waiting_messages.read_page(quick_redis(), self._cursor)
            queues = list_consumed_queues(app)
            for entry in entries:
                if entry.message.queue in queues:
                    _decide(app, entry)
        except (RedisError, OperationalError) as error:
            log.warning("message.not_sent", reason=str(error))


def send_waiting(app: Any, entry: StoredEntry, *, last_round: bool = False) -> bool:
    """Send a message again as it was, and take it off the list; return False if another process does so."""
    content = waiting_messages.claim_message(quick_redis(), entry.message.task_id)
    if content is None:
        return False
    with app.producer_or_acquire() as producer:
        producer.publish(
            tuple(content["body"]),
            exchange="",
            routing_key=content["queue"],
            serializer="json",
            headers=content["headers"] | ({_LAST_ROUND: True} if last_round else {}),
            correlation_id=content["correlation_id"],
            reply_to=content["reply_to"],
        )
    waiting_messages.remove_message(quick_redis(), entry)
    return True


def _decide(app: Any, entry: StoredEntry) -> None:
    waiting, now = entry.message, _now()
    expires, waits_since = _instant(waiting.expires), _instant(waiting.waits_since)
    if expires is not None and expires < now:
        waiting_messages.remove_message(quick_redis(), entry)
        log.info("message.expired", task=waiting.task, task_id=waiting.task_id)
        return
    known = waiting.task in app.tasks and _digest_of(waiting.task) not in waiting.refused_by
    answer_due = waiting.answer_awaited and (waits_since is None or waits_since < now - ANSWER_AFTER)
    if (known or answer_due) and send_waiting(app, entry, last_round=not known):
        log.info("message.sent_again", task=waiting.task, task_id=waiting.task_id, last_round=not known)


def _digest_of(task: str) -> str:
    """Return the digest of a task's arguments; "" if this version has no such task."""
    return ARGUMENT_DIGESTS.get(task, str)()


def _content_of(app: Any, message: Any) -> dict[str, Any] | None:
    """Return the fields needed to send a message again, or None unless it is of protocol 2 and for a queue of ours."""
    headers, queue = dict(message.headers), (message.delivery_info or {}).get("routing_key")
    if message.content_type != "application/json" or queue not in list_consumed_queues(app):
        return None
    try:
        body = message.payload
    except DecodeError:
        return None
    if not (isinstance(body, list) and len(body) == len(("args", "kwargs", "embed"))):
        return None
    if not (isinstance(headers.get("id"), str) and isinstance(headers.get("task"), str)):
        return None
    if not (isinstance(body[0], Sequence) and isinstance(body[1], Mapping)):
        return None
    sent = {name: message.properties.get(name) for name in ("correlation_id", "reply_to")}
    return {"queue": queue, "headers": headers, "body": body, **sent}


def _texts(header: Any) -> list[str]:
    """Return the texts of a header that should be a list of texts: any sender writes its headers itself."""
    return [each for each in header if isinstance(each, str)] if isinstance(header, list) else []


def _instant(header: Any) -> datetime | None:
    """Return the instant of a header, or None if it has none: one odd message is not to end the work on all others."""
    try:
        instant = datetime.fromisoformat(header)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _now() -> datetime:
    """Return Redis's time: the workers that keep and send a message again need not agree about theirs."""
    return datetime.fromtimestamp(read_redis_clock(quick_redis()), UTC)

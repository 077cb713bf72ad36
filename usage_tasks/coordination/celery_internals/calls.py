"""The call in a message: the headers and the body that Celery makes a request of, checked before it does.

Celery takes them as they are. A `timelimit` that is no pair of numbers ends the worker, a negative one kills the child,
an `id` that is an object ends the worker, and a header of the name of one of the request's methods hides it.

Internal: `celery.worker.request.Request` and `celery.app.task.Context`, 5.7, which take each header as an attribute;
`celery.utils.time.maybe_iso8601` and `maybe_make_aware`, by which they read instants.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from celery.app.task import Context
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import DecodeError
from kombu.serialization import loads

from usage_tasks.coordination.celery_internals.envelope import (
    JSON_TYPE,
    UnreadableError,
    check_size,
    read_envelope,
    shown,
    unpack_body,
)
from usage_tasks.telemetry.headers import PUBLISHED_AT

ETA_AHEAD_MAX: Final = timedelta(days=1)
"""The longest wait. It is far above the visibility timeout, beyond which a message that waits is handed out again."""

TIME_LIMIT_SECONDS_MAX: Final = 86_400
ID_LENGTH_MAX: Final = 255
_WORD_LENGTH_MAX: Final = 1_024
_COUNT_MAX: Final = 1_000_000_000
_CANVAS: Final[Mapping[str, type]] = {"callbacks": list, "errbacks": list, "chain": list, "chord": dict}
_BODY: Final = ("args", "kwargs", "embed")
_LIMITS: Final = ("hard", "soft")
_OF_PROTOCOL_1: Final = frozenset({"args", "kwargs", "utc", "taskset", *_CANVAS})


def check_item(item: bytes, queue: str) -> None:
    """Raise UnreadableError if a worker could not begin with the message in an item of a queue."""
    envelope = read_envelope(item, queue)
    body = unpack_body(envelope)
    _check_type(envelope.get("content-type"))
    check_size(body)
    try:
        payload = loads(body, JSON_TYPE, "utf-8", accept=[JSON_TYPE])
    except DecodeError as error:
        raise UnreadableError(f"body: {error}") from error
    check_call(envelope["headers"], payload)


def check_message(message: Any) -> None:
    """Raise UnreadableError if Celery could not make a request of a message of kombu's, or no task begin with it.

    The body is parsed once: the message keeps what was read.
    """
    _check_type(message.content_type)
    check_size(message.body or b"")
    check_call(message.headers, message.payload)


def check_call(headers: Mapping[str, Any], payload: object) -> None:
    """Raise UnreadableError if headers and body are not those of a call, in version 1 or 2 of the protocol."""
    if isinstance(payload, dict) and ("task" not in headers or "args" in payload):
        arguments, named = payload.get("args", []), payload.get("kwargs", {})
        embed = {name: payload.get(name) for name in _CANVAS}
        headers = {name: value for name, value in payload.items() if name not in _OF_PROTOCOL_1} | dict(headers)
    elif isinstance(payload, list) and len(payload) == len(_BODY) and "task" in headers:
        arguments, named, embed = payload
    else:
        raise UnreadableError(f"body: must be [args, kwargs, embed] of a task (got {shown(payload)})")
    _check_headers(headers)
    if not isinstance(arguments, list) or not isinstance(named, dict):
        raise UnreadableError(f"body: must have a list and an object (got {shown(arguments)}, {shown(named)})")
    _check_canvas(embed)


def find_sender(headers: object, payload: object) -> tuple[str | None, str | None]:
    """Return the task's id and name as far as a message has usable ones; in version 1 they are in its body."""
    described = {**_object(payload), **_object(headers)}
    found = (described.get("id"), described.get("task"))
    task_id, task = (each if _is_id(each) else None for each in found)
    return task_id, task


def awaits_answer(headers: object) -> bool:
    """True unless a message has `ignore_result`: then nobody wants its result."""
    return _object(headers).get("ignore_result") is not True


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_type(content_type: object) -> None:
    if content_type != JSON_TYPE:
        raise UnreadableError(f"content-type: must be {JSON_TYPE} (got {shown(content_type)})")


def _check_headers(headers: Mapping[str, Any]) -> None:
    for name, (is_right, words) in _RULES.items():
        if (name in headers or name in _REQUIRED) and not is_right(headers.get(name)):
            raise UnreadableError(f"{name}: must be {words} (got {shown(headers.get(name))})")
    _check_instants(headers)
    for name in sorted(_RESERVED.intersection(headers)):
        if headers[name] is not None:
            raise UnreadableError(f"{name}: must not be a header (got {shown(headers[name])})")


def _check_instants(headers: Mapping[str, Any]) -> None:
    eta, _ = _read_instant("eta", headers.get("eta")), _read_instant("expires", headers.get("expires"))
    if eta is None:
        return
    published_at = headers.get(PUBLISHED_AT)
    sent_at = published_at if isinstance(published_at, int | float) else datetime.now(UTC).timestamp()
    if not eta - sent_at <= ETA_AHEAD_MAX.total_seconds():
        raise UnreadableError(f"eta: must be at most {ETA_AHEAD_MAX} ahead (got {shown(headers['eta'])})")


def _read_instant(name: str, value: object) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, str) and (instant := maybe_iso8601(value)) is not None:
            return maybe_make_aware(instant).timestamp()
    except (ValueError, OverflowError):
        pass
    raise UnreadableError(f"{name}: must be an ISO 8601 instant (got {shown(value)})")


def _check_canvas(embed: object) -> None:
    if not isinstance(embed, dict | None):
        raise UnreadableError(f"embed: must be an object (got {shown(embed)})")
    for name, value in (embed or {}).items():
        if name not in _CANVAS:
            if name in _RESERVED or name in _RULES:
                raise UnreadableError(f"embed: must not have {name}")
        elif value is not None and not isinstance(value, _CANVAS[name]):
            raise UnreadableError(f"{name}: must be a list or an object as Celery sends it (got {shown(value)})")
        elif isinstance(value, list) and not all(isinstance(each, dict | list) for each in value):
            raise UnreadableError(f"{name}: must be a list of signatures")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= ID_LENGTH_MAX and value.isprintable()


def _is_word(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _WORD_LENGTH_MAX and value.isprintable())


def _is_text(value: object) -> bool:
    return isinstance(value, str | None)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_MAX


def _is_place(value: object) -> bool:
    return value is None or _is_count(value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | None)


def _is_names(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _is_object(value: object) -> bool:
    return isinstance(value, dict | None)


def _is_limits(value: object) -> bool:
    return value is None or (isinstance(value, list) and len(value) == len(_LIMITS) and all(map(_is_limit, value)))


def _is_limit(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= TIME_LIMIT_SECONDS_MAX


def _is_custom(value: object) -> bool:
    """Return True for custom headers as Sentry and Datadog nest them: Celery makes headers of them in a retry."""
    return value is None or (isinstance(value, dict) and value.keys().isdisjoint(_RULES.keys() | _RESERVED))


_REQUIRED: Final = ("id", "task")
_RULES: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    **dict.fromkeys(_REQUIRED, (_is_id, f"a printable text of 1 to {ID_LENGTH_MAX} characters")),
    **dict.fromkeys(
        ("lang", "shadow", "group", "root_id", "parent_id", "origin", "eta", "expires"),
        (_is_word, f"a printable text of at most {_WORD_LENGTH_MAX:,} characters"),
    ),
    **dict.fromkeys(("argsrepr", "kwargsrepr"), (_is_text, "a text")),
    "retries": (_is_count, "a whole number from 0 on"),
    **dict.fromkeys(("group_index", "replaced_task_nesting"), (_is_place, "a whole number from 0 on")),
    "headers": (_is_custom, "an object without Celery's own headers"),
    "ignore_result": (_is_flag, "true or false"),
    "stamped_headers": (_is_names, "a list of texts"),
    "stamps": (_is_object, "an object"),
    "timelimit": (_is_limits, f"two numbers from 0 to {TIME_LIMIT_SECONDS_MAX:,}"),
}
_RESERVED: Final = frozenset(dir(Context)) - frozenset(_RULES)
"""The attributes of a request that no header of a sender's sets."""

"""An error answer of Redis counts as a lost connection, for everything that Celery and kombu do in this process.

kombu has a list of errors after which it connects again, and Celery retries after these only. Of the error
answers of Redis the list has three: LOADING, a refused password, too many clients. After any other one, as READONLY,
UNBLOCKED, MISCONF or NOPERM, a worker ends with exit code 1.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from celery.backends.redis import RedisBackend
from celery.worker.heartbeat import Heart
from kombu.transport.redis import QoS, Transport
from kombu.utils.json import dumps
from redis.exceptions import RedisError, ResponseError

from usage_tasks.coordination.celery_internals import is_known

_CORRECTED: Final = "usage_tasks_corrected"

UNTAKEN: Final[list[tuple[str, str]]] = []
"""The queues and the messages that were taken from them and that Redis would not note as taken."""


def count_answers_as_lost(version: str = "") -> bool:
    """Correct the Redis transport and the results of this process, once; return True if this kombu is a known one.

    Internal: `connection_errors` of `kombu.transport.redis.Transport`, kombu 5.7, a tuple that everything reads: the
    worker's loop and its timers, producers, beat. A message whose acknowledgement is refused stays unacknowledged: the
    heartbeat finds it, and connects again. `RedisBackend.on_connection_error`, Celery 5.7, is called before each retry
    of a result: by a documented setting (`additional_connection_errors`) an error answer is retried, but on the same
    connection, which may lead to a server that is no longer the primary.
    """
    if not is_known("kombu", version):
        return False
    if RedisError not in Transport.connection_errors:
        Transport.connection_errors = (*Transport.connection_errors, RedisError)
    _wrap(RedisBackend, "on_connection_error", _discarding)
    _wrap(QoS, "append", _keeping)
    _wrap(Heart, "_send", _without_retry)
    return True


def _wrap(owner: type, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    released = vars(owner)[name]
    if not hasattr(released, _CORRECTED):
        changed = change(released)
        setattr(changed, _CORRECTED, True)
        setattr(owner, name, changed)


def _discarding(released: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(released)
    def on_connection_error(backend: Any, *args: Any) -> Any:
        backend.client.connection_pool.disconnect(inuse_connections=False)
        return released(backend, *args)

    return on_connection_error


def _without_retry(released: Callable[..., Any]) -> Callable[..., Any]:
    """Send a worker's event of its life once: the next one is due in 2 s.

    Celery tries each until the broker takes it, in the loop: it takes no message and no signal meanwhile, and waits for
    a broker without a word. Internal: `Heart._send`, Celery 5.7.
    """

    @wraps(released)
    def _send(heart: Any, event: str, retry: bool = True) -> Any:  # noqa: ARG001, FBT001, FBT002 - as Celery calls it
        return released(heart, event, retry=False)

    return _send


def _keeping(released: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a message that was taken from its queue and that Redis refuses to note as taken.

    A Redis whose memory is full lets messages be taken and refuses the note, so each would be lost. After an error
    answer no note is there; after a lost connection that is unknown, and so the message is left to the sweeps
    (docs/adr/0004). Internal: `QoS.append` of kombu's Redis transport, 5.7, one transaction.
    """

    @wraps(released)
    def append(qos: Any, message: Any, delivery_tag: str) -> None:
        try:
            released(qos, message, delivery_tag)
        except ResponseError:
            delivery = message.delivery_info
            if not delivery["exchange"]:  # sent straight to a queue, as all of ours are
                UNTAKEN.append((delivery["routing_key"], dumps(message._raw)))
            raise

    return append

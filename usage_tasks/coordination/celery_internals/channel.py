"""A fault of kombu 5.7 that ends a worker when Redis restarts, and its correction.

A consumer that has lost its broker closes the connection twice, and ignores every error of a lost connection. The
first close cuts the transport off from its connection. At the second, the channel still wants to give back the
messages it holds, opens a new pool for that, and asks the missing connection for its address: AttributeError, which
nothing ignores, and the worker exits. The corrected channel raises a lost connection instead, which is the truth.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from kombu.transport.redis import Channel
from redis.exceptions import ConnectionError as ConnectionLostError

from usage_tasks.coordination.celery_internals import is_known

_CORRECTED: Final = "usage_tasks_corrected"


def correct_channel(version: str = "") -> bool:
    """Correct the Redis channel of this process, once; return True if this version of kombu needs it.

    Internal: `kombu.transport.redis.Channel._connparams`, kombu 5.7. Another series is left alone, until the test
    shows that it needs the correction too.
    """
    if not is_known("kombu", version):
        return False
    parameters: Callable[..., dict[str, Any]] = vars(Channel)["_connparams"]
    if not hasattr(parameters, _CORRECTED):

        @wraps(parameters)
        def parameters_while_connected(channel: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
            if getattr(channel.connection, "client", None) is None:
                raise ConnectionLostError("the connection to the broker is closed")
            return parameters(channel, *args, **kwargs)

        setattr(parameters_while_connected, _CORRECTED, True)
        setattr(Channel, "_connparams", parameters_while_connected)  # noqa: B010 - unknown to kombu's types
    return True

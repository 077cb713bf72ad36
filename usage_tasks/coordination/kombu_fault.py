"""A fault of kombu 5.7 that ends a worker when Redis restarts, and its mend.

A consumer that has lost its broker closes the connection twice, and ignores whatever a lost connection may raise. The
first time cuts the transport off from its connection; the second time the channel still wants to give back what it
holds, opens a new pool for that, and asks the connection that is gone for its address: AttributeError, which nobody
ignores, and the worker exits. Here the channel says what is true instead, that its connection is lost.
"""

from collections.abc import Callable
from functools import wraps
from importlib.metadata import version as installed_version
from typing import Any, Final

from kombu.transport.redis import Channel
from redis.exceptions import ConnectionError as ConnectionLostError

FAULTY: Final = "5.7"
"""The series that has the fault. Another one is left alone, until the test says that it needs the mend too."""

_MENDED: Final = "usage_tasks_mended"


def mend_channel(version: str = "") -> bool:
    """Mend the Redis channel of this process, once; answer whether this version of kombu needs it."""
    if not (version or installed_version("kombu")).startswith(f"{FAULTY}."):
        return False
    parameters: Callable[..., dict[str, Any]] = vars(Channel)["_connparams"]
    if not hasattr(parameters, _MENDED):

        @wraps(parameters)
        def parameters_while_connected(channel: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
            if getattr(channel.connection, "client", None) is None:
                raise ConnectionLostError("the connection to the broker is closed")
            return parameters(channel, *args, **kwargs)

        setattr(parameters_while_connected, _MENDED, True)
        setattr(Channel, "_connparams", parameters_while_connected)  # noqa: B010 - kombu's types do not tell of it
    return True

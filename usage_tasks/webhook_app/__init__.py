"""The webhook receiver: verifies what Stripe sends, hands it to the broker, answers. Nothing else.

Owns: the HTTP surface (`requests`, `receiver`), the address that a request is counted for (`addresses`), the limit of
refused requests (`limiting`), the way to the broker (`publishing`), what it needs to know of the installation
(`installed`), and the server in front of it (`application`, `serving`).

Does not own: what an event means. An event of any type is taken, and 200 means that the broker has it.

Invariants: no database; nothing is enqueued that one of our secrets has not signed; every wait has a bound; a sender
that is slow costs a socket and no thread. `app` is for a server: RSGI under granian, a bare WSGI callable elsewhere.
"""

from functools import cache
from typing import Any


@cache
def _application() -> Any:
    # Imported in the process that serves: the one that only watches over it stays small.
    from usage_tasks.webhook_app.application import Application  # noqa: PLC0415
    from usage_tasks.webhook_app.installed import read_installed  # noqa: PLC0415

    try:
        read_installed()  # what is wrong is said when the server starts, not to its first sender
    except SystemExit as refused:  # which servers take for a worker to replace, for ever
        raise RuntimeError("the receiver's settings can't be used; what is wrong was said above") from refused
    return Application()


def __getattr__(name: str) -> Any:
    """Answer `app`, the receiver as the environment configures it: read when its server starts."""
    if name == "app":
        return _application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

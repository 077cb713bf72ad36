"""The webhook receiver: verifies what Stripe sends, hands it to the broker, answers. Nothing else.

Owns: the answers (`receiver`), the sender's address and its limit of refused requests (`senders`), the way to the
broker (`publishing`), the part of the settings that it needs (`configuration`), the adapter to the server and the
server itself (`application`, `serving`).

Does not own: what an event means. An event of any type is taken, and 200 means that the broker has it.

Invariants: no database; nothing is enqueued that one of our secrets has not signed; every wait has a bound; a sender
that is slow costs a socket and no thread. `app` is for granian, by RSGI (docs/adr/0021).
"""

from functools import cache
from typing import Any


@cache
def _application() -> Any:
    # Imported in the serving process only: the process that watches it stays small.
    from usage_tasks.telemetry.logs import configure_logging  # noqa: PLC0415
    from usage_tasks.webhook_app.application import make_application  # noqa: PLC0415
    from usage_tasks.webhook_app.configuration import read_configuration  # noqa: PLC0415

    configure_logging()
    try:
        return make_application(read_configuration())
    except SystemExit as refused:  # which a server takes for a worker to replace, for ever
        raise RuntimeError("the receiver's settings can't be used; the reason stands above") from refused


def __getattr__(name: str) -> Any:
    """Return `app`, the receiver as the environment configures it: a server loads it, and fails if it is wrong."""
    if name == "app":
        return _application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

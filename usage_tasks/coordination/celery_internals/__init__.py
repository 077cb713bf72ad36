"""Internal APIs of Celery and kombu: all that this package uses of them, and nothing else.

Owns every use of undocumented parts of the two libraries: their message format (`message`), their keys in Redis
(`queues`), a fault of kombu's channel (`channel`), the errors after which it connects again (`answers`), a consumer
that waits before it does (`patience`), the state of a worker's consumer (`consumer`) and of its pool (`occupancy`), a
task that is cut short (`request`), the names behind their routing (`routing`), and messages that cannot be read: what
an envelope and a call are (`envelope`, `calls`), how far a body is unpacked (`codecs`), and where the libraries fail
(`malformed`). Each function names the internal that it uses and the reason.

Does not own the documented parts: signals, bootsteps, schedulers, `send_task`, producers.

Invariants:
- No other module of the package uses an internal (tests/coordination/test_celery_internals.py).
- Each internal is compared with the installed libraries by a test; another series than `SERIES` fails it, for somebody
  to look.
- The receiver is light and uses `message`: it imports no Celery, and no more of kombu than a producer needs.
"""

from collections.abc import Mapping
from importlib.metadata import version as installed_version
from types import MappingProxyType
from typing import Final

SERIES: Final[Mapping[str, str]] = MappingProxyType({"celery": "5.7", "kombu": "5.7"})
"""The series that this was written for, and tested with."""


def is_known(library: str, version: str = "") -> bool:
    """True if a library is of the series that this was written for; `version` instead of the installed one."""
    return (version or installed_version(library)).startswith(f"{SERIES[library]}.")

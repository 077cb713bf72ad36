"""How long a message has been taken, by one clock for all workers.

kombu notes with each taken message the time of the worker's host, and any worker gives back to the queue the messages
that are older than the visibility timeout by its own host's clock. A worker whose clock is ahead by more than that
gives back, every few seconds, the messages that all others are working on: they run again and again, and after some
redeliveries count as poison.
"""

from collections.abc import Callable
from typing import Final

from kombu.transport import redis as transport

from usage_tasks.coordination.celery_internals import is_known

_NAME: Final = "time"


def judge_by(clock: Callable[[], float], version: str = "") -> bool:
    """Let kombu's Redis transport of this process ask `clock` for Unix seconds; return True if it is a known kombu.

    Internal: `time` in `kombu.transport.redis`, kombu 5.7, used in `QoS.append` and `QoS.restore_visible` and nowhere
    else. Another series is left alone.
    """
    if not is_known("kombu", version):
        return False
    setattr(transport, _NAME, clock)
    return True

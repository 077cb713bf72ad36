"""The progress of a worker, as its own heartbeat sees it: is something there that does not move?

Each look compares with the one before. Time is added look by look, and no look counts for more than two periods: a
machine or a process that stood still has not made anybody wait.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from usage_tasks.coordination.celery_internals.consumer import is_rate_limited
from usage_tasks.coordination.celery_internals.occupancy import Occupancy, read_occupancy
from usage_tasks.coordination.celery_internals.routing import list_consumed_queues
from usage_tasks.coordination.queue_heads import read_heads
from usage_tasks.heartbeats import BEAT_SECONDS, Trouble
from usage_tasks.worker.quick_redis import quick_redis

_NAMES_MAX: Final = 3

Key = TypeVar("Key")


class Progress:
    """Remembers for how long each task has run or waited, and each message has been the next one of its queue."""

    def __init__(self, queues: Sequence[str]) -> None:
        """`queues`: where this worker was started to take messages from."""
        self._queues = tuple(queues)
        self._looked_at = time.monotonic()
        self._running: dict[str, float] = {}
        self._waiting: dict[str, float] = {}
        self._heads: dict[tuple[str, str], float] = {}

    def look(self, consumer: Any) -> list[Trouble]:
        """Return what does not move, each with the seconds for which this was seen."""
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, 2 * BEAT_SECONDS), now
        occupancy = read_occupancy(consumer)
        self._running = _add(self._running, occupancy.running, passed)
        self._waiting = _add(self._waiting, occupancy.waiting if occupancy.free else (), passed)
        self._heads = _add(self._heads, self._find_heads(consumer, occupancy), passed)
        return [*self._overdue(occupancy), *self._not_begun(occupancy), *self._not_taken(consumer, occupancy)]

    def _overdue(self, occupancy: Occupancy) -> list[Trouble]:
        """All slots hold tasks beyond their limits: nothing ends them, for threads know no limits."""
        if not occupancy.running or occupancy.free:
            return []
        over = min(self._running[tag] - task.limit_seconds for tag, task in occupancy.running.items())
        names = sorted({task.name for task in occupancy.running.values()})
        shown = ", ".join(names[:_NAMES_MAX]) + (", ..." if len(names) > _NAMES_MAX else "")
        text = f"all {occupancy.slots} slots of its pool hold tasks beyond their time limits ({shown}): restart it"
        return [Trouble(text, over)] if over > 0 else []

    def _not_begun(self, occupancy: Occupancy) -> list[Trouble]:
        """A task waits for the pool, which has room for it: a child process hangs, or is missing."""
        if not self._waiting:
            return []
        waiting, free = len(self._waiting), f"{occupancy.free} of {occupancy.slots} slots"
        text = f"{waiting} tasks wait for its pool, though {free} are free: a child process hangs; restart it"
        return [Trouble(text, max(self._waiting.values()))]

    def _not_taken(self, consumer: Any, occupancy: Occupancy) -> list[Trouble]:
        """A message is the next one of a queue all the time, and this worker has room for it."""
        taken_from = list_consumed_queues(consumer.app)
        free = f"{occupancy.free} of {occupancy.slots} slots are free"
        troubles = []
        for (queue, _), seconds in self._heads.items():
            why = f"and {free}: restart it"
            if queue not in taken_from:
                why = f"its consumer was cancelled: restart it, or run celery control add_consumer {queue}"
            troubles.append(Trouble(f"it takes none of the messages that wait in {queue}, {why}", seconds))
        return troubles

    def _find_heads(self, consumer: Any, occupancy: Occupancy) -> list[tuple[str, str]]:
        """Return the next message of each queue, if this worker should take it. A rate limit may be why it does not."""
        if occupancy.free <= len(occupancy.waiting) or is_rate_limited(consumer):
            return []
        try:
            heads = read_heads(quick_redis(), sorted({*self._queues, *list_consumed_queues(consumer.app)}))
        except RedisError:
            return []
        return list(heads.items())


def _add(known: Mapping[Key, float], present: Iterable[Key], passed: float) -> dict[Key, float]:
    """Return the seconds of all that is present: `passed` is added, and the first look gives 0."""
    return {each: known[each] + passed if each in known else 0 for each in present}

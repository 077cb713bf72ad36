"""The timer of a worker's loop: what it keeps of the tasks that have ended."""

import heapq
from typing import Any


def forget_cancelled(timer: Any) -> int:
    """Remove the entries of a worker's timer that were cancelled; return their number.

    A prefork worker enters the time limit of each task and cancels it when the task ends. kombu only marks the entry,
    and drops it when it is due: at 900 tasks a second, each with a limit of 10 minutes, the main process would hold
    half a million of them, 560 bytes each. To be called by the loop itself, which enters and takes the others.

    Internal: `_queue` of kombu's `asynchronous.timer.Timer`, a heap of `(eta, priority, entry)` whose list the loop
    holds, and `canceled` of its entries; 5.7. No public interface removes one. A timer without that list is a thread of
    its own, which a worker has where there is no such loop: no time limit is entered there.
    """
    queue = getattr(timer, "_queue", None)
    if queue is None:
        return 0
    kept = [scheduled for scheduled in queue if not scheduled.entry.canceled]
    forgotten = len(queue) - len(kept)
    if forgotten:
        heapq.heapify(kept)
        queue[:] = kept
    return forgotten

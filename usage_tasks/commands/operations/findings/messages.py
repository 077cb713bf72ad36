"""Messages that nobody takes: dead letters, for a newer version, or in a queue without a worker."""

import time
from datetime import timedelta
from typing import Final

from usage_tasks.commands.operations.findings.finding import (
    DoctorFinding,
    Examination,
    Findings,
    count,
    fine,
    look,
    wrong,
)
from usage_tasks.commands.operations.findings.jobs import STRIPE_QUEUES
from usage_tasks.coordination.celery_internals.queues import list_queues_taken_from, read_queues
from usage_tasks.coordination.dead_letters import count_dead_letters
from usage_tasks.coordination.queue_heads import read_heads
from usage_tasks.coordination.waiting_messages import list_waiting

QUEUES: Final = ("usage", "billing", "stripe", "directory", "maintenance", "server")
PLATFORM: Final = "server"
SECOND_LOOK: Final = timedelta(seconds=1)
TAKEN_WITHIN: Final = timedelta(minutes=10)
"""The longest task: a worker that took a message in this time may still work on it, and take the next one after it."""

AGE_TO_LOOK: Final = timedelta(seconds=15)
AGE_WRONG: Final = timedelta(minutes=2)


def look_at_messages(it: Examination) -> Findings:
    """Look for dead letters, unreadable and waiting messages in the broker."""
    if letters := count_dead_letters(it.rt.redis):
        yield wrong(
            "poison",
            f"{count(letters, 'message')} set aside: they killed their workers, or failed for good",
            "See `usage-tasks poison list`, then `usage-tasks poison replay ID` or `usage-tasks poison drop ID`.",
        )
    else:
        yield fine("poison", "no message")
    if waiting := list_waiting(it.rt.redis):
        oldest = f"since {waiting[0].waits_since}: {waiting[0].reason}"
        yield look(
            "waiting",
            f"{count(len(waiting), 'message')} for workers of a newer version, {oldest}",
            "Start workers of the newer version: they take them by themselves. See `usage-tasks poison list`.",
        )
    else:
        yield fine("waiting", "no message")


def look_at_queues(it: Examination) -> Findings:
    """Look for queues whose messages nobody takes.

    A backlog that is worked on is none of them: a worker answers, or the oldest message changes, or one of the queue
    is being worked on. So a worker that answers nothing counts too, and a consumer that is no worker of ours.
    """
    used = [queue for queue in QUEUES if it.uses_stripe or queue not in STRIPE_QUEUES]
    states, _ = read_queues(it.rt.redis, used)
    ages = {each.queue: _age(each.oldest_published_at) for each in states if each.depth}
    old = [queue for queue, age in ages.items() if age is None or age > AGE_TO_LOOK]
    left = [queue for queue in old if not it.is_served(queue)]
    if left:
        before = read_heads(it.rt.redis, left)
        time.sleep(SECOND_LOOK.total_seconds())
        after = read_heads(it.rt.redis, left)
        taken = list_queues_taken_from(it.rt.redis, since=time.time() - TAKEN_WITHIN.total_seconds())
        left = [queue for queue in left if before.get(queue) == after.get(queue) and queue not in taken]
    for each in states:
        if each.queue in left:
            yield _without_worker(each.queue, each.depth, ages[each.queue])
        else:
            yield fine("queues", f"{each.queue}: {count(each.depth, 'message')}")


def _age(published_at: float | None) -> timedelta | None:
    return None if published_at is None else timedelta(seconds=max(0.0, time.time() - published_at))


def _without_worker(queue: str, depth: int, age: timedelta | None) -> DoctorFinding:
    since = "" if age is None else f", the oldest for {age.total_seconds():.0f} s"
    found = f"{queue}: {count(depth, 'message')} and nobody takes them{since}"
    verdict = wrong if age is not None and age > AGE_WRONG else look
    if queue == PLATFORM:
        return verdict("queues", found, f"Start the platform's consumer of the queue {queue}: it must act on them.")
    return verdict("queues", found, f"Start a worker: `celery -A usage_tasks worker -Q {queue}`.")

"""Send the stored announcements to the platform, oldest first, in batches; mark each once the broker has taken it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.operations import outbox
from usage_tasks.storage.operations.outbox import OutboxRow

BATCH: Final = 500
LEASE: Final = timedelta(minutes=2)

Publish: TypeAlias = Callable[[Sequence[OutboxRow]], Mapping[int, str]]
"""Hand announcements to the broker, in their order. Return why some can't be sent, by their `outbox_id`.

Raises RetryableError if the broker does not take them; then some may have got in.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched:
    """How many announcements the broker took, and why others can't be sent, by their `outbox_id`.

    `more`: the time was used up before the outbox was empty.
    """

    sent: int
    refused: Mapping[int, str]
    more: bool


def dispatch(transaction: Transaction, publish: Publish, *, alone: bool, longest: timedelta) -> Dispatched:
    """Send announcements until none is left or `longest` is over; an announcement that cannot be sent delays no other.

    `alone`: nobody else sends now, so that a lease is of a process that died. Its announcements come first: they are
    older. Raises RetryableError if the broker is away; the announcements it took before are marked, the rest stays.
    """
    ends_at = time.monotonic() + longest.total_seconds()
    sent, refused = 0, dict[int, str]()
    while True:
        with transaction() as connection:
            claimed = outbox.claim_announcements(
                connection, limit=BATCH, lease=LEASE, leased_too=alone, excluding=list(refused)
            )
        failed = publish(claimed) if claimed else {}
        taken = [each for each in claimed if each.outbox_id not in failed]
        if taken:
            with transaction() as connection:
                outbox.mark_dispatched(connection, taken)
        sent += len(taken)
        refused |= failed
        if len(claimed) < BATCH or time.monotonic() >= ends_at:
            return Dispatched(sent=sent, refused=refused, more=len(claimed) == BATCH)

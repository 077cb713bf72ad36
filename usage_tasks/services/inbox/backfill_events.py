"""Look through Stripe's own list of events for what no webhook, or no message, has brought.

Each walk lists everything since the last one that came to its end, and some time before it; a page is stored in the
transaction that notes how far the walk is, so that one that is killed goes on where it was. What stands in the inbox
is left alone. Stripe keeps events for 30 days: an outage of the whole system of up to so long heals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from usage_tasks.domain.errors import NotFoundError, RetryableError
from usage_tasks.domain.events import EventKind, EventNotice, EventSource
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.inbox import events as inbox
from usage_tasks.storage.inbox import list_progress
from usage_tasks.storage.inbox.list_progress import Walk
from usage_tasks.stripe_gateway.protocol import StripeGateway

PAGE: Final = 100
PAGES_MAX: Final = 50
OVERLAP: Final = timedelta(minutes=15)
"""How late Stripe's list may show an event, and how far its clock may be off ours."""

KEPT: Final = timedelta(days=29)
"""A little less than Stripe keeps events: there is nothing to find before."""

WALKS: Final = {EventKind.SNAPSHOT: "events", EventKind.THIN: "thin events"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfilled:
    """How a run ended: events listed, those that were missing, and 1 where the walk goes on in the next run."""

    listed: int = 0
    stored: int = 0
    unfinished: int = 0

    def __add__(self, other: "Backfilled") -> "Backfilled":
        """Add two kinds of events up."""
        return Backfilled(
            listed=self.listed + other.listed,
            stored=self.stored + other.stored,
            unfinished=max(self.unfinished, other.unfinished),
        )


def backfill_events(
    transaction: Transaction, stripe: StripeGateway, kind: EventKind, *, at: datetime, pages: int = PAGES_MAX
) -> Backfilled:
    """Walk up to so many pages of a list and store what is missing. Raises RetryableError where Stripe is away."""
    with transaction() as connection:
        walk = list_progress.get_walk(connection, WALKS[kind])
        latest = inbox.find_latest(connection) if walk.since is None else None
    begin = max((walk.since or latest or at) - OVERLAP, at - KEPT)
    until, done = walk.until or at, Backfilled()
    for _ in range(pages):
        try:
            page = stripe.list_events(kind, created_from=begin, cursor=walk.cursor, limit=PAGE)
        except NotFoundError:
            if walk.cursor is None:
                raise
            # The event that the walk stood at is shown no longer: the next run begins at the top again.
            _move(transaction, kind, walk, replace(walk, until=None, cursor=None), [])
            return done + Backfilled(unfinished=1)
        finished = page.cursor is None
        moved = replace(
            walk, since=until if finished else walk.since, until=None if finished else until, cursor=page.cursor
        )
        done += _move(transaction, kind, walk, moved, page.events)
        walk = moved
        if finished:
            return done
    return done + Backfilled(unfinished=1)


def _move(
    transaction: Transaction, kind: EventKind, walk: Walk, moved: Walk, events: Sequence[EventNotice]
) -> Backfilled:
    """Store a page, and how far the walk has come with it."""
    with transaction() as connection:
        if not list_progress.put_walk(connection, WALKS[kind], moved, expected=walk):
            raise RetryableError(f"backfill of {WALKS[kind]}: another run has moved the walk")
        stored = inbox.store_events(connection, events, source=EventSource.BACKFILL)
    return Backfilled(listed=len(events), stored=stored)

"""Look through Stripe's own list of events for events that no webhook, or no message, has brought.

Each walk lists everything since the last complete walk, and some time before it. A page is stored in the transaction
that notes the place of the walk, so a killed walk goes on where it was. Events in the inbox are left unchanged. Stripe
keeps events for 30 days: older ones are noted as missed (missed_events.py).

The end of a walk is by Stripe's clock: by a clock of ours that is ahead, the next walk would begin after events that
do not exist yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.errors import NotFoundError, RetryableError
from usage_tasks.domain.events import EventKind, EventNotice, EventSource
from usage_tasks.services.inbox.missed_events import KEPT, note_missed
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.inbox import events as inbox
from usage_tasks.storage.inbox import list_progress
from usage_tasks.storage.inbox.list_progress import Walk
from usage_tasks.storage.ledger import cost_centers
from usage_tasks.stripe_gateway.protocol import StripeGateway

PAGE: Final = 100
PAGES_MAX: Final = 50
OVERLAP: Final = timedelta(minutes=15)
"""How late Stripe's list may show an event, and how far its clock may be off ours."""

WALKS: Final = {EventKind.SNAPSHOT: "events", EventKind.THIN: "thin events"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfilled:
    """The result of a run: events listed, events that were missing, and 1 if the walk goes on in the next run.

    `missed` is 1 if events were gone from the list; `looked_at` counts the objects that were read instead.
    """

    listed: int = 0
    stored: int = 0
    unfinished: int = 0
    missed: int = 0
    looked_at: int = 0

    def __add__(self, other: "Backfilled") -> "Backfilled":
        """Add what came of two kinds of events, or of the objects."""
        return Backfilled(
            listed=self.listed + other.listed,
            stored=self.stored + other.stored,
            unfinished=max(self.unfinished, other.unfinished),
            missed=max(self.missed, other.missed),
            looked_at=self.looked_at + other.looked_at,
        )


def backfill_events(
    transaction: Transaction, stripe: StripeGateway, kind: EventKind, *, at: datetime, pages: int = PAGES_MAX
) -> Backfilled:
    """Walk up to so many pages of a list and store what is missing. Raises RetryableError if Stripe is away."""
    with transaction() as connection:
        walk = list_progress.get_walk(connection, WALKS[kind])
        since = _begin(connection, walk, at=at)
        missed = kind is EventKind.SNAPSHOT and walk.until is None and note_missed(connection, since=since, at=at)
    begin, until = max(since, at - KEPT), walk.until
    done = Backfilled(missed=int(missed))
    for _ in range(pages):
        try:
            page = stripe.list_events(kind, created_from=begin, cursor=walk.cursor, limit=PAGE)
        except NotFoundError:
            if walk.cursor is None:
                raise
            # The event that the walk stood at is shown no longer: the next run begins at the top again.
            _move(transaction, kind, walk, replace(walk, until=None, cursor=None), [])
            return done + Backfilled(unfinished=1)
        finished, until = page.cursor is None, until or min(at, page.listed_at or at)
        moved = replace(
            walk, since=until if finished else walk.since, until=None if finished else until, cursor=page.cursor
        )
        done += _move(transaction, kind, walk, moved, page.events)
        walk = moved
        if finished:
            return done
    return done + Backfilled(unfinished=1)


def _begin(connection: Connection, walk: Walk, *, at: datetime) -> datetime:
    """Return since when events may be missing: the last whole walk; before any the latest event, or the oldest account.

    A new installation may have accounts that paid before it.
    """
    since = walk.since or inbox.find_latest(connection) or cost_centers.find_oldest_paying(connection)
    return min(since or at, at) - OVERLAP


def _move(
    transaction: Transaction, kind: EventKind, walk: Walk, moved: Walk, events: Sequence[EventNotice]
) -> Backfilled:
    """Store a page, and how far the walk has come with it."""
    with transaction() as connection:
        if not list_progress.put_walk(connection, WALKS[kind], moved, expected=walk):
            raise RetryableError(f"backfill of {WALKS[kind]}: another run has moved the walk")
        stored = inbox.store_events(connection, events, source=EventSource.BACKFILL)
    return Backfilled(listed=len(events), stored=stored)

"""Events that Stripe keeps no longer: report that they are missed, and look at the objects instead.

Stripe keeps an event for 30 days. After a longer outage, or in a new installation whose accounts paid before it, the
events of the
gap are no longer available. Then Stripe's lists of objects are walked once, and each object that differs from the
stored one gets the missing event: stored in the inbox under an id of our own, and applied, postponed and parked there
like any other. Handlers ask Stripe for the object, so they need no more than its id.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import NotFoundError, PermanentError, RetryableError, StaleEpochError
from usage_tasks.domain.events import EventSource
from usage_tasks.services.inbox.listed_objects import LISTS, Found, Look
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.inbox import events as inbox
from usage_tasks.storage.inbox import list_progress
from usage_tasks.storage.inbox.list_progress import BEGINNING, Span, Walk
from usage_tasks.storage.operations import audit
from usage_tasks.stripe_gateway.protocol import StripeGateway

KEPT: Final = timedelta(days=30)
"""How long Stripe keeps an event."""

MARGIN: Final = timedelta(hours=6)
"""An event this near its end may be gone before the walk of the list has come to it."""

SPAN: Final = "missed events"
PAGES_MAX: Final = 20
"""A run reads so many pages of lists: of customers 10 make a page, for each is asked for on its own."""

LONGEST: Final = timedelta(minutes=1)
"""A run reads nothing more once this is over: Stripe may be slow, and a task may run for 4 minutes."""

_ACTOR: Final = Actor("service:stripe.backfill_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedAt:
    """How a run ended: objects looked at, events stored for them, and 1 where the next run goes on.

    `failed`: lists that can't be read; the others are read all the same.
    """

    looked_at: int = 0
    stored: int = 0
    unfinished: int = 0
    failed: Sequence[PermanentError] = ()


def note_missed(connection: Connection, *, since: datetime, at: datetime) -> bool:
    """Note that the events since an instant are missed up to where Stripe still has all; return True if that is new.

    Nothing where Stripe still has them. The objects are looked at from then on by `look_at_objects`.
    """
    until = at - KEPT + MARGIN
    if since >= until:
        return False
    span = Span(since=since, until=until)
    if not list_progress.put_span(connection, [SPAN, *LISTS], span):
        return False
    details = {"since": since.isoformat(), "until": until.isoformat()}
    audit.append_audit(
        connection, at=at, actor=_ACTOR, action="stripe_event.missed", attribution_id=None, details=details
    )
    return True


def look_at_objects(
    transaction: Transaction, stripe: StripeGateway, *, at: datetime, pages: int = PAGES_MAX
) -> LookedAt:
    """Read up to so many pages of the lists that are under way, and store the events that bring what differs.

    Raises RetryableError if Stripe is away: the next run goes on at the same page.
    """
    with transaction() as connection:
        left = list(list_progress.list_under_way(connection, list(LISTS)))
    looked_at = stored = 0
    failed: list[PermanentError] = []
    gives_up_at = time.monotonic() + LONGEST.total_seconds()
    for _ in range(pages):
        if not left or time.monotonic() >= gives_up_at:
            break
        try:
            page, finished = _read_page(transaction, stripe, left[0], at=at)
        except StaleEpochError:
            raise  # another run does the work
        except PermanentError as error:
            failed.append(error)
            page, finished = LookedAt(), True
        looked_at, stored = looked_at + page.looked_at, stored + page.stored
        left = left[1:] if finished else left
    return LookedAt(looked_at=looked_at, stored=stored, unfinished=int(bool(left)), failed=failed)


def _read_page(transaction: Transaction, stripe: StripeGateway, name: str, *, at: datetime) -> tuple[LookedAt, bool]:
    """Read one page of a list; a page and the place of the walk are one transaction. Return True if it was the last."""
    with transaction() as connection:
        walk = list_progress.get_walk(connection, name)
    if walk.since is None or walk.until is None:
        return LookedAt(), True
    span = Span(since=walk.since, until=walk.until)
    look = Look(transaction=transaction, stripe=stripe, span=span, cursor=walk.cursor or None, at=at)
    try:
        found = LISTS[name](look)
    except NotFoundError:
        if look.cursor is None:
            raise
        # The object that the walk stood at is gone: it begins again.
        _move(transaction, name, walk, replace(walk, cursor=BEGINNING), Found(looked_at=0, notices=(), cursor=None))
        return LookedAt(), False
    moved = replace(walk, until=walk.until if found.cursor else None, cursor=found.cursor)
    stored = _move(transaction, name, walk, moved, found)
    return LookedAt(looked_at=found.looked_at, stored=stored), found.cursor is None


def _move(transaction: Transaction, name: str, walk: Walk, moved: Walk, found: Found) -> int:
    with transaction() as connection:
        if not list_progress.put_walk(connection, name, moved, expected=walk):
            raise RetryableError(f"{name}: another run has moved the walk")
        return inbox.store_events(connection, found.notices, source=EventSource.BACKFILL)

"""Stripe's events: the object that changed, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class EventKind(StrEnum):
    """Snapshot events bring an object with them; thin ones only name it. Stripe lists them apart."""

    SNAPSHOT = "snapshot"
    THIN = "thin"


class EventSource(StrEnum):
    """How an event came to us: by a webhook, or by looking through Stripe's list."""

    WEBHOOK = "webhook"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventNotice:
    """An event's type, the object it is about, and when it was made."""

    event_id: str
    type: str
    object_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """One page of a list, newest first; `cursor` is where the next begins, None at the end.

    `listed_at` is by Stripe's clock, None if it did not show it.
    """

    events: Sequence[EventNotice]
    cursor: str | None
    listed_at: datetime | None = None

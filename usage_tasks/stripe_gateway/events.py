"""Stripe's lists of events, read into notices."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import stripe

from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.events import EventNotice, EventPage
from usage_tasks.stripe_gateway.clocks import listed_at
from usage_tasks.stripe_gateway.reading import moment


def iso(at: datetime) -> str:
    """Write an instant as the second version of the API does."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_page(page: stripe.ListObject[stripe.Event]) -> EventPage:
    """Read a page of snapshot events; the last one's id is where the next page begins."""
    notices = [
        EventNotice(
            event_id=event.id,
            type=event.type,
            object_id=getattr(event.data.object, "id", None),
            created_at=moment(event.created),
        )
        for event in page.data
    ]
    cursor = notices[-1].event_id if page.has_more and notices else None
    return EventPage(events=notices, cursor=cursor, listed_at=listed_at(page))


def read_thin_page(page: Any) -> EventPage:
    """Read a page of thin events; its token stands in the address of the next page."""
    notices = []
    for event in page.data:
        related = getattr(event, "related_object", None)
        notices.append(
            EventNotice(
                event_id=event.id,
                type=event.type,
                object_id=None if related is None else related.id,
                created_at=datetime.fromisoformat(event.created),
            )
        )
    following = getattr(page, "next_page_url", None)
    if not following:
        return EventPage(events=notices, cursor=None, listed_at=listed_at(page))
    tokens = parse_qs(urlsplit(following).query).get("page")
    if not tokens:
        raise PermanentError("stripe core.events.list: the next page's address has no token")
    return EventPage(events=notices, cursor=tokens[0], listed_at=listed_at(page))

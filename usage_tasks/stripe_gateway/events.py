"""Stripe's events: pages of notices, and the facts of a single event."""

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.events import EventNotice, EventPage
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.domain.stripe_objects import EventFacts
from usage_tasks.stripe_gateway.fields import Fields


def iso(at: datetime) -> str:
    """Write an instant as the second version of the API does."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_page(page: Fields, *, listed_at: datetime | None = None) -> EventPage:
    """Read a page of snapshot events, written at `listed_at`; the last one's id is where the next page begins."""
    notices = [
        EventNotice(
            event_id=event.text("id"),
            type=event.text("type"),
            object_id=event.object("data").object("object").find_text("id"),
            created_at=event.moment("created"),
        )
        for event in page.objects("data", "event")
    ]
    cursor = notices[-1].event_id if page.find("has_more") and notices else None
    return EventPage(events=notices, cursor=cursor, listed_at=listed_at)


def read_thin_page(page: Fields, *, listed_at: datetime | None = None) -> EventPage:
    """Read a page of thin events, written at `listed_at`; its token stands in the address of the next page."""
    notices = []
    for event in page.objects("data", "event"):
        related = event.find_object("related_object")
        notices.append(
            EventNotice(
                event_id=event.text("id"),
                type=event.text("type"),
                object_id=None if related is None else related.find_text("id"),
                created_at=read_instant(event, "created"),
            )
        )
    following = page.find_text("next_page_url")
    if not following:
        return EventPage(events=notices, cursor=None, listed_at=listed_at)
    tokens = parse_qs(urlsplit(following).query).get("page")
    if not tokens:
        raise PermanentError("stripe core.events.list: the next page's address has no token")
    return EventPage(events=notices, cursor=tokens[0], listed_at=listed_at)


def read_instant(found: Fields, field: str) -> datetime:
    """Read an instant as the second version of the API writes it."""
    try:
        return datetime.fromisoformat(found.text(field))
    except ValueError:
        raise found.wrong(field, "an ISO 8601 time") from None


def read_event_facts(event: Fields) -> EventFacts:
    """Read the facts of an event besides its object: the changed fields, and the customer."""
    data = event.object("data")
    about, before = data.object("object"), data.find_object("previous_attributes")
    payer = about.find_text("id") if about.find("object") == "customer" else about.find_reference("customer")
    alert = about.find_reference("alert")
    return EventFacts(
        event_id=event.text("id"),
        type=event.text("type"),
        object_id=about.find_text("id"),
        customer_id=None if payer is None else StripeCustomerId(payer),
        changed=frozenset() if before is None else before.names(),
        alert_id=alert,
        value=None if alert is None else about.find_integer("value"),
    )

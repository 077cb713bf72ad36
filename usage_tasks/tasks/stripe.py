"""`stripe.*`: Stripe's events into the inbox, and from there into the ledger."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

from pydantic import StringConstraints

from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import runtime
from usage_tasks.services import apply_events as applying
from usage_tasks.storage import inbox
from usage_tasks.tasks.billing import send_meter_events
from usage_tasks.tasks.task import task

APPLY_LIMIT: Final = 100

EventId = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_]{1,255}$")]
Payload = Annotated[str, StringConstraints(strict=True, max_length=1 << 20)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveAnswer:
    """Whether the event was new."""

    stored: int


@task(name="stripe.receive_event", time_limit=timedelta(minutes=1))
def receive_event(event_id: EventId, payload: Payload) -> ReceiveAnswer:
    """Store a verified event of Stripe's in the inbox, once, and have it applied."""
    rt = runtime()
    event = applying.parse_event(event_id, payload)
    with rt.transaction() as connection:
        new = inbox.store_event(connection, event)
    apply_events.apply_async(ignore_result=True)
    return ReceiveAnswer(stored=int(new))


@task(name="stripe.apply_events", time_limit=timedelta(minutes=4))
def apply_events() -> applying.Applied:
    """Apply the events of the inbox that are due; fails at the end if any was set aside.

    docs/stripe-events.md says what each type does.
    """
    rt = runtime()
    done = applying.apply_events(
        rt.transaction,
        rt.stripe,
        terms=rt.billing_terms,
        at=rt.now(),
        limit=APPLY_LIMIT,
    )
    if done.reports:
        send_meter_events.apply_async(ignore_result=True)
    if done.applied + done.retried + done.parked >= APPLY_LIMIT:
        apply_events.apply_async(ignore_result=True)
    if done.parked:
        raise PermanentError(f"events: {done.parked} parked, {done.retried} put off, {done.applied} applied")
    return done

"""`stripe.*`: Stripe's events into the inbox, and from there into the ledger."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

from pydantic import StringConstraints

from usage_tasks.coordination import debounce
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.inbox import apply_events as applying
from usage_tasks.services.inbox.parse_event import parse_event
from usage_tasks.storage.inbox import events
from usage_tasks.tasks.billing.sync import send_meter_events
from usage_tasks.tasks.task import task

APPLY_LIMIT: Final = 100
APPLY_HINT: Final = "stripe.apply_events"

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
    event = parse_event(event_id, payload)
    with rt.transaction() as connection:
        new = events.store_event(connection, event)
    have_applied(rt)
    return ReceiveAnswer(stored=int(new))


def have_applied(rt: Runtime) -> None:
    """Have due events applied, by one task for all callers in the meantime."""
    if debounce.is_first(rt.redis, APPLY_HINT):
        apply_events.apply_async(ignore_result=True)


@task(name="stripe.apply_events", time_limit=timedelta(minutes=4))
def apply_events() -> applying.Applied:
    """Apply the due events of the inbox. Fails at the end if any was parked.

    docs/stripe-events.md lists the effect of each type.
    """
    rt = runtime()
    debounce.clear(rt.redis, APPLY_HINT)
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

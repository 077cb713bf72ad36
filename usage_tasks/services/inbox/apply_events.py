"""Reflect Stripe's events in the ledger: what has arrived, once, by asking Stripe for the object as it is now."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from usage_tasks.domain.errors import (
    InvalidInputError,
    InvariantError,
    PermanentError,
    RetryableError,
    StaleVersionError,
)
from usage_tasks.services.inbox.handlers import HANDLERS
from usage_tasks.services.metering.decide_reports import backoff
from usage_tasks.services.payments.billing_terms import BillingTerms
from usage_tasks.services.payments.context import Desk
from usage_tasks.services.payments.reflect_invoice import Effect
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.inbox import events
from usage_tasks.storage.inbox.events import InboxEvent
from usage_tasks.stripe_gateway.protocol import StripeGateway

CLAIM_LIMIT: Final = 4
LEASE: Final = timedelta(seconds=150)
"""Longer than CLAIM_LIMIT events, each three calls that run into their time-outs (10 s)."""

IGNORED: Final = "ignored"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """How a run of applying ended; `reports` counts the meter reports it gave rise to.

    `ignored` are those of the applied whose type does nothing here.
    """

    applied: int
    retried: int
    parked: int
    reports: int
    ignored: int = 0


def parse_event(event_id: str, payload: str) -> InboxEvent:
    """Read what matters of an event's JSON; raise InvalidInputError where it is no event of that id."""
    try:
        event = json.loads(payload)
        stated_id, kind, object_id = event["id"], event["type"], event["data"]["object"].get("id")
        created_at = datetime.fromtimestamp(int(event["created"]), tz=UTC)
        if not _is_word(kind) or not (object_id is None or _is_word(object_id)):
            raise ValueError("type or id")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
        raise InvalidInputError("payload", f"{len(payload)} characters", "a Stripe event in JSON") from error
    if stated_id != event_id:
        raise InvalidInputError("event_id", event_id, "the id that stands in the payload")
    return InboxEvent(event_id=event_id, type=kind, object_id=object_id, created_at=created_at)


def _is_word(value: object) -> bool:
    """Tell whether a value is text that a database can hold and a log can show."""
    return isinstance(value, str) and value != "" and value.isprintable()


def apply_events(
    transaction: Transaction, stripe: StripeGateway, *, terms: BillingTerms, at: datetime, limit: int
) -> Applied:
    """Apply up to about `limit` events that are due; one that fails is tried later or parked, the others go on."""
    desk = Desk(transaction=transaction, stripe=stripe, terms=terms, at=at)
    applied = ignored = retried = parked = reports = 0
    while applied + retried + parked < limit:
        with transaction() as connection:
            claimed = events.claim_events(connection, limit=CLAIM_LIMIT, lease=LEASE)
        if not claimed:
            break
        for event in claimed:
            try:
                effect = _apply(desk, event)
            except (RetryableError, StaleVersionError) as error:
                retried += 1
                with transaction() as connection:
                    events.mark_retry(connection, event.event_id, after=backoff(event.attempts), reason=str(error))
            except (PermanentError, InvariantError) as error:
                parked += 1
                with transaction() as connection:
                    events.mark_parked(connection, event.event_id, reason=str(error))
            else:
                applied += 1
                ignored += effect is None
                reports += effect.reports if effect else 0
    return Applied(applied=applied, ignored=ignored, retried=retried, parked=parked, reports=reports)


def _apply(desk: Desk, event: InboxEvent) -> Effect | None:
    """Apply one event; None for one whose type does nothing here."""
    handle = HANDLERS.get(event.type)
    write = None if handle is None else handle(desk, event)
    with desk.transaction() as connection:
        effect = None if write is None else write(connection)
        events.mark_applied(connection, event.event_id, outcome=IGNORED if effect is None else effect.outcome)
    return effect

"""The input and the result of a handler."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.errors import PermanentError
from usage_tasks.services.payments.billing_terms import BillingTerms
from usage_tasks.services.payments.reflect_invoice import Effect
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.inbox.events import InboxEvent
from usage_tasks.stripe_gateway.protocol import StripeGateway


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeContext:
    """Stripe to ask, the tables to look into, the terms that hold, and billing time."""

    transaction: Transaction
    stripe: StripeGateway
    terms: BillingTerms
    at: datetime


Write = Callable[[Connection], Effect]
Handler = Callable[[StripeContext, InboxEvent], Write]
"""Fetches, and answers what to write; no transaction is open while it does."""


def subject_of(event: InboxEvent) -> str:
    """Return the id of the object that an event is about; a PermanentError if it names none."""
    if event.object_id is None:
        raise PermanentError(f"event {event.event_id}: {event.type} without the id of its object")
    return event.object_id

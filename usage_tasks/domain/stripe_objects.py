"""Stripe's facts about an event, about an object in a list, and about an invoice that does not exist yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from usage_tasks.domain.payments import InvoiceLine, StripeCustomerId


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFacts:
    """The facts of an event that its object does not have. `changed` names the fields that an update changed.

    `alert_id` and `value` are of an alert that was triggered.
    """

    event_id: str
    type: str
    object_id: str | None
    customer_id: StripeCustomerId | None
    changed: frozenset[str]
    alert_id: str | None = None
    value: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePreview:
    """The next invoice as it would be now; amounts in currency cents."""

    currency: str
    total: int
    period_start: datetime
    period_end: datetime
    lines: Sequence[InvoiceLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """The fields of a listed dispute, refund or credit note that decide if it must be fetched."""

    object_id: str
    customer_id: StripeCustomerId | None
    status: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPage:
    """One page of a list, newest first; `cursor` is where the next begins, None at the end."""

    objects: Sequence[ListedObject]
    cursor: str | None

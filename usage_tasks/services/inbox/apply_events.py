"""Reflect Stripe's events in the ledger: what has arrived, once, by asking Stripe for the object as it is now."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from usage_tasks.domain.errors import (
    InvariantError,
    PermanentError,
    RetryableError,
    StaleVersionError,
)
from usage_tasks.domain.retries import backoff
from usage_tasks.services.inbox.handlers import HANDLERS
from usage_tasks.services.payments.billing_terms import BillingTerms
from usage_tasks.services.payments.context import StripeContext
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


def apply_events(
    transaction: Transaction, stripe: StripeGateway, *, terms: BillingTerms, at: datetime, limit: int
) -> Applied:
    """Apply up to about `limit` due events. An event that fails is retried later or parked; the others go on."""
    context = StripeContext(transaction=transaction, stripe=stripe, terms=terms, at=at)
    applied = ignored = retried = parked = reports = 0
    while applied + retried + parked < limit:
        with transaction() as connection:
            claimed = events.claim_events(connection, limit=CLAIM_LIMIT, lease=LEASE)
        if not claimed:
            break
        for event in claimed:
            try:
                effect = _apply(context, event)
            except (RetryableError, StaleVersionError) as error:
                retried += 1
                with transaction() as connection:
                    events.mark_retry(connection, event, after=backoff(event.attempts), reason=str(error))
            except (PermanentError, InvariantError) as error:
                parked += 1
                with transaction() as connection:
                    events.mark_parked(connection, event, reason=str(error))
            else:
                applied += 1
                ignored += effect is None
                reports += effect.reports if effect else 0
    return Applied(applied=applied, ignored=ignored, retried=retried, parked=parked, reports=reports)


def _apply(context: StripeContext, event: InboxEvent) -> Effect | None:
    """Apply one event. Returns None if its type has no effect here."""
    handle = HANDLERS.get(event.type)
    write = None if handle is None else handle(context, event)
    with context.transaction() as connection:
        effect = None if write is None else write(connection)
        events.mark_applied(connection, event.event_id, outcome=IGNORED if effect is None else effect.outcome)
    return effect

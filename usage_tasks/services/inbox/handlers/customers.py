"""customer.created, .deleted: store a customer whose answer was lost; mark a deleted one, who cannot subscribe."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.customers import StripeCustomer
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.services.payments.context import Handler, StripeContext, Write, subject_of
from usage_tasks.services.payments.reflect_invoice import Effect
from usage_tasks.services.payments.reflect_subscription import ADOPT_AFTER, look_at_subscription, reflect_subscription
from usage_tasks.storage.inbox.events import InboxEvent
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import customers, subscriptions

_ACTOR: Final = Actor("service:stripe.apply_events")


def _create(context: StripeContext, event: InboxEvent) -> Write:
    customer = context.stripe.get_customer(StripeCustomerId(subject_of(event)))

    def write(connection: Connection) -> Effect:
        stored = _store_unanswered(connection, customer)
        if stored is not None:
            _audit(connection, stored, customer.customer_id, action="stripe_customer.adopt", at=context.at)
        return Effect(
            outcome="nothing to store" if stored is None else "customer of ours stored, whose answer was lost"
        )

    return write


def _store_unanswered(connection: Connection, customer: StripeCustomer) -> AttributionId | None:
    """Store a customer whose creation was never confirmed, with the requested terms. Return its account, or None."""
    account = AttributionId(customer.attribution_id or "")
    asked = customers.find_customer(connection, account)
    if asked is None or asked.customer_id is not None or customer.deleted:
        return None
    if customer.preferred_currency != asked.currency:
        return None
    if not customers.is_unanswered(connection, account, longer_than=ADOPT_AFTER):
        raise RetryableError(f"customer {customer.customer_id}: the task that made it may still store it")
    return account if customers.complete_customer(connection, account, customer.customer_id) else None


def _delete(context: StripeContext, event: InboxEvent) -> Write:
    customer_id = StripeCustomerId(subject_of(event))
    with context.transaction() as connection:
        account = customers.find_account(connection, customer_id)
        held = None if account is None else subscriptions.find_open(connection, account)
    look = None if held is None else look_at_subscription(context.stripe, held.subscription_id)

    def write(connection: Connection) -> Effect:
        if account is None:
            return Effect(outcome="not a customer of ours")
        effect = Effect(outcome="customer is gone")
        if look is not None:
            effect = reflect_subscription(connection, look, terms=context.terms, at=context.at)
        if subscriptions.mark_customer_deleted(connection, customer_id, at=min(event.created_at, context.at)):
            _audit(connection, account, customer_id, action="stripe_customer.delete", at=context.at)
        return effect

    return write


def _audit(
    connection: Connection, account: AttributionId, customer_id: StripeCustomerId, *, action: str, at: datetime
) -> None:
    details = {"stripe_customer_id": customer_id}
    audit.append_audit(connection, at=at, actor=_ACTOR, action=action, attribution_id=account, details=details)


HANDLERS: Final[Mapping[str, Handler]] = {"customer.created": _create, "customer.deleted": _delete}

"""customer.deleted: whoever is gone subscribes no more; Stripe has ended the subscription with the customer."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.services.invoices import Effect
from usage_tasks.services.stripe_events.desk import Desk, Handler, Write, subject_of
from usage_tasks.services.subscriptions import look_at_subscription, reflect_subscription
from usage_tasks.storage import audit, stripe_accounts, subscriptions
from usage_tasks.storage.inbox import InboxEvent

_ACTOR: Final = Actor("service:stripe.apply_events")


def _delete(desk: Desk, event: InboxEvent) -> Write:
    customer_id = StripeCustomerId(subject_of(event))
    with desk.transaction() as connection:
        account = stripe_accounts.find_account(connection, customer_id)
        held = None if account is None else subscriptions.find_open(connection, account)
    look = None if held is None else look_at_subscription(desk.stripe, held.subscription_id)

    def write(connection: Connection) -> Effect:
        if account is None:
            return Effect(outcome="not a customer of ours")
        effect = Effect(outcome="customer is gone")
        if look is not None:
            effect = reflect_subscription(connection, look, terms=desk.terms, at=desk.at)
        if subscriptions.mark_customer_deleted(connection, customer_id, at=event.created_at):
            audit.append_audit(
                connection,
                at=desk.at,
                actor=_ACTOR,
                action="stripe_customer.delete",
                attribution_id=account,
                details={"stripe_customer_id": customer_id},
            )
        return effect

    return write


HANDLERS: Final[Mapping[str, Handler]] = {"customer.deleted": _delete}

"""customer.subscription.*: the subscription as it is now, compared by its id with the one that the account has."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from usage_tasks.domain.payments import StripeSubscriptionId
from usage_tasks.services.stripe_events.desk import Desk, Handler, Write, subject_of
from usage_tasks.services.subscriptions import fetch_last_invoice, reflect_subscription
from usage_tasks.storage.inbox import InboxEvent


def _reflect(desk: Desk, event: InboxEvent) -> Write:
    standing = desk.stripe.get_subscription(StripeSubscriptionId(subject_of(event)))
    last = fetch_last_invoice(desk.stripe, standing)
    return partial(reflect_subscription, standing=standing, last=last, terms=desk.terms, at=desk.at)


HANDLERS: Final[Mapping[str, Handler]] = {
    f"customer.subscription.{what}": _reflect for what in ("created", "updated", "deleted", "paused", "resumed")
}

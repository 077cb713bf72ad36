"""customer.subscription.*: the subscription as it is now, compared by its id with the account's own."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from usage_tasks.domain.payments import StripeSubscriptionId
from usage_tasks.services.payments.context import Handler, StripeContext, Write, subject_of
from usage_tasks.services.payments.reflect_subscription import look_at_subscription, reflect_subscription
from usage_tasks.storage.inbox.events import InboxEvent


def _reflect(context: StripeContext, event: InboxEvent) -> Write:
    look = look_at_subscription(context.stripe, StripeSubscriptionId(subject_of(event)))
    return partial(reflect_subscription, look=look, terms=context.terms, at=context.at)


HANDLERS: Final[Mapping[str, Handler]] = {
    f"customer.subscription.{what}": _reflect for what in ("created", "updated", "deleted", "paused", "resumed")
}

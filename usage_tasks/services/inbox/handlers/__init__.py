"""The effects of Stripe's events: one module per object family, one table of types.

A handler fetches first and returns the changes to write, in the transaction that settles the event. It fetches
the object as it is now, so that the order of events does not matter, and every effect has a natural key, so that no
event counts twice. It owns no state: where an invoice or a subscription leads is in `services/payments`, in
`reflect_invoice.py` and `reflect_subscription.py`. Any type that is not in the table is stored and counted.
docs/stripe-events.md has the table.
"""

from collections.abc import Mapping
from typing import Final

from usage_tasks.services.inbox.handlers import customers, invoices, metering, payments, subscriptions
from usage_tasks.services.payments.context import Handler

HANDLERS: Final[Mapping[str, Handler]] = {
    **invoices.HANDLERS,
    **subscriptions.HANDLERS,
    **customers.HANDLERS,
    **payments.HANDLERS,
    **metering.HANDLERS,
}

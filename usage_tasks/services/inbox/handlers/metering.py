"""v1.billing.meter.*, thin events: what a meter could not count, fetched whole and taken up (meter_errors.py)."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection

from usage_tasks.services.metering.meter_errors import handle_meter_errors
from usage_tasks.services.payments.context import Handler, StripeContext, Write
from usage_tasks.services.payments.reflect_invoice import Effect
from usage_tasks.storage.inbox.events import InboxEvent


def _take_up(context: StripeContext, event: InboxEvent) -> Write:
    # In a transaction of its own: taken up twice, nothing happens twice.
    done = handle_meter_errors(context.transaction, context.stripe, event.event_id, at=context.at)
    counts = f"sent anew {done.sent_anew}, parked {done.parked}, dropped {done.dropped}, doubted {done.doubted}"

    def write(_connection: Connection) -> Effect:
        return Effect(outcome=f"meter errors: {counts}, unknown {done.unknown}", reports=done.sent_anew)

    return write


HANDLERS: Final[Mapping[str, Handler]] = dict.fromkeys(
    ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"), _take_up
)

"""What the client reads of meters: the meter itself, what a price charges by, what was counted, what went wrong."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

import stripe

from usage_tasks.domain.errors import NotFoundError, PermanentError
from usage_tasks.domain.payments import Meter, MeterErrorReport, MeterErrors, StripeCustomerId, UsagePrice

METER_ERROR_TYPES: Final = frozenset({"v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"})
_METERS_PER_PAGE: Final = 100

Result = TypeVar("Result")


class MeterReads:
    """The part of the client that reads meters; see StripeGateway."""

    def _call(self, operation: str, call: Callable[[stripe.StripeClient], Result]) -> Result:
        raise NotImplementedError

    def find_meter(self, event_name: str) -> Meter | None:
        """See StripeGateway."""
        listed = self._call(
            "meters.list",
            lambda client: list(client.v1.billing.meters.list({"limit": _METERS_PER_PAGE}).auto_paging_iter()),
        )
        meters = [
            Meter(
                meter_id=each.id,
                event_name=each.event_name,
                formula=each.default_aggregation.formula,
                active=each.status == "active",
            )
            for each in listed
            if each.event_name == event_name
        ]
        return max(meters, key=lambda meter: meter.active, default=None)

    def find_usage_price(self, price_id: str) -> UsagePrice | None:
        """See StripeGateway."""
        try:
            found = self._call("prices.retrieve", lambda client: client.v1.prices.retrieve(price_id))
        except NotFoundError:
            return None
        recurring = found.recurring
        return UsagePrice(
            price_id=found.id,
            active=found.active,
            currency=found.currency,
            interval=recurring.interval if recurring else None,
            interval_count=recurring.interval_count if recurring else None,
            usage_type=recurring.usage_type if recurring else None,
            meter_id=recurring.meter if recurring else None,
        )

    def get_metered_quantity(
        self, meter_id: str, customer_id: StripeCustomerId, *, start: datetime, end: datetime
    ) -> Decimal:
        """See StripeGateway."""
        listed = self._call(
            "meters.event_summaries.list",
            lambda client: client.v1.billing.meters.event_summaries.list(
                meter_id,
                {"customer": customer_id, "start_time": int(start.timestamp()), "end_time": int(end.timestamp())},
            ),
        )
        # Without a grouping window the whole span is one summary. Its value is a JSON number.
        return sum((Decimal(str(each.aggregated_value)) for each in listed.data), start=Decimal(0))

    def get_meter_errors(self, event_id: str) -> MeterErrorReport:
        """See StripeGateway."""
        found: Any = self._call("core.events.retrieve", lambda client: client.v2.core.events.retrieve(event_id))
        if found.type not in METER_ERROR_TYPES:
            raise PermanentError(f"stripe event {event_id}: a {found.type} tells of no meter events")
        return MeterErrorReport(
            event_id=event_id,
            starts_at=datetime.fromisoformat(found.data.validation_start),
            ends_at=datetime.fromisoformat(found.data.validation_end),
            errors=tuple(
                MeterErrors(
                    code=each.code,
                    count=each.error_count,
                    identifiers=tuple(sample.request.identifier for sample in each.sample_errors),
                )
                for each in found.data.reason.error_types
            ),
        )

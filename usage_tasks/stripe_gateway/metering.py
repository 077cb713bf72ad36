"""The client's reads about meters: the meter, the meter of a price, the counted quantity, the reported errors."""

from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Final, TypeVar

import stripe

from usage_tasks.domain.errors import NotFoundError, PermanentError
from usage_tasks.domain.idempotency import first_key
from usage_tasks.domain.payments import Meter, MeterErrorReport, MeterErrors, StripeCustomerId, UsagePrice
from usage_tasks.stripe_gateway.events import read_instant
from usage_tasks.stripe_gateway.fields import Fields
from usage_tasks.stripe_gateway.reading import meter_of

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
        found = [Fields(each, "meter") for each in listed]
        meters = [
            Meter(
                meter_id=each.text("id"),
                event_name=event_name,
                formula=each.object("default_aggregation").text("formula"),
                active=each.text("status") == "active",
            )
            for each in found
            if each.text("event_name") == event_name
        ]
        return max(meters, key=lambda meter: meter.active, default=None)

    def find_usage_price(self, price_id: str) -> UsagePrice | None:
        """See StripeGateway."""
        try:
            found = self._call("prices.retrieve", lambda client: client.v1.prices.retrieve(price_id))
        except NotFoundError:
            return None
        price = Fields(found, "price")
        recurring = price.find_object("recurring")
        return UsagePrice(
            price_id=price.text("id"),
            active=price.flag("active"),
            currency=price.text("currency"),
            interval=recurring.text("interval") if recurring else None,
            interval_count=recurring.integer("interval_count") if recurring else None,
            usage_type=recurring.text("usage_type") if recurring else None,
            meter_id=meter_of(price),
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
        summaries = Fields(listed, "list").objects("data", "meter_event_summary")
        values = [(each, each.find_decimal("aggregated_value")) for each in summaries]
        for each, value in values:
            if value is None:
                raise each.wrong("aggregated_value", "a number")
        return sum((value for _, value in values if value is not None), start=Decimal(0))

    def get_meter_errors(self, event_id: str) -> MeterErrorReport:
        """See StripeGateway."""
        event = Fields(
            self._call("core.events.retrieve", lambda client: client.v2.core.events.retrieve(event_id)), "event"
        )
        kind = event.text("type")
        if kind not in METER_ERROR_TYPES:
            raise PermanentError(f"stripe event {event_id}: a {kind} tells of no meter events")
        data = event.object("data")
        return MeterErrorReport(
            event_id=event_id,
            starts_at=read_instant(data, "validation_start"),
            ends_at=read_instant(data, "validation_end"),
            errors=tuple(
                MeterErrors(
                    code=each.text("code"), count=each.integer("error_count"), identifiers=tuple(_identifiers(each))
                )
                for each in data.object("reason").objects("error_types", "error_type")
            ),
        )


def _identifiers(error: Fields) -> Iterator[str]:
    """List the identifiers of an error's samples, by the keys of the requests that brought them."""
    for sample in error.objects("sample_errors", "sample_error"):
        request = sample.find_object("request")
        key = None if request is None else request.find_text("identifier")
        if key is not None:
            yield first_key(key)

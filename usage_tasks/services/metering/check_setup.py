"""Check that the configured prices and the meter in Stripe are as this system expects."""

from collections.abc import Sequence
from dataclasses import dataclass

from usage_tasks.domain.errors import MisconfiguredError
from usage_tasks.domain.payments import Meter, UsagePrice
from usage_tasks.stripe_gateway.protocol import StripeGateway


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredPrice:
    """A price that the settings name: by which key, its id, and the currency it must have (None: any)."""

    key: str
    price_id: str
    currency: str | None


def check_stripe(stripe: StripeGateway, prices: Sequence[ConfiguredPrice], *, event_name: str) -> None:
    """Raise MisconfiguredError that names each price and meter that is not as it must be; nothing without prices.

    A meter that adds up absolute balances, or a price of another meter, would bill wrong sums: nothing may be sent.
    """
    if not prices:
        return
    meter = stripe.find_meter(event_name)
    problems = _meter_problems(meter, event_name)
    for configured in prices:
        found = stripe.find_usage_price(configured.price_id)
        subject = f"{configured.key}: price {configured.price_id}"
        if found is None:
            problems.append(f"{subject}: there is none in Stripe under this key")
        else:
            problems += [f"{subject}: {problem}" for problem in _price_problems(found, configured, meter)]
    if problems:
        raise MisconfiguredError("Stripe is not set up as the settings say; " + "; ".join(problems))


def _meter_problems(meter: Meter | None, event_name: str) -> list[str]:
    if meter is None:
        return [f"stripeMeterEventName: no meter takes events of the name {event_name!r}"]
    subject = f"stripeMeterEventName: meter {meter.meter_id} of {event_name!r}"
    problems = []
    if not meter.active:
        problems.append(f"{subject}: is inactive, must be active")
    if meter.formula != "last":
        problems.append(f"{subject}: its formula is {meter.formula!r}, must be 'last'")
    return problems


def _price_problems(price: UsagePrice, configured: ConfiguredPrice, meter: Meter | None) -> list[str]:
    expected = {
        "active": (price.active, True),
        "usage_type": (price.usage_type, "metered"),
        "interval": (price.interval, "month"),
        "interval_count": (price.interval_count, 1),
        "currency": (price.currency, configured.currency or price.currency),
        "meter": (price.meter_id, price.meter_id if meter is None else meter.meter_id),
    }
    return [f"{name} is {found!r}, must be {must!r}" for name, (found, must) in expected.items() if found != must]

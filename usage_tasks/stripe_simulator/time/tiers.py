"""Tiered prices: which part of a quantity costs what. Source: https://docs.stripe.com/subscriptions/pricing-models."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.params import Spec, decimal, integer, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject, plain

TIER: Spec = {
    "flat_amount": integer(),
    "flat_amount_decimal": decimal(),
    "unit_amount": integer(),
    "unit_amount_decimal": decimal(),
    "up_to": text(required=True, limit=15),
}
TIERS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of a quantity at one price a unit, and what its tier costs besides."""

    quantity: Decimal
    unit_amount: Decimal
    flat_amount: Decimal


def split(quantity: Decimal, tiers: Sequence[JsonObject], *, mode: str) -> list[Share]:
    """The shares of a quantity: one with `volume`, one for each tier reached with `graduated`.

    A tier goes up to and including its bound. The first tier is reached by nothing at all, so that its flat amount is
    always due.
    """
    reached, below = [], Decimal(0)
    for tier in tiers:
        bound = quantity if tier["up_to"] is None else Decimal(tier["up_to"])
        reached.append(_share(tier, min(quantity, bound) - below))
        if quantity <= bound:
            break
        below = bound
    return reached if mode == "graduated" else [_share(tier, quantity)]


def _share(tier: JsonObject, quantity: Decimal) -> Share:
    unit, flat = (Decimal(tier[name] or 0) for name in ("unit_amount_decimal", "flat_amount_decimal"))
    return Share(quantity=quantity, unit_amount=unit, flat_amount=flat)


def read_tiers(given: Sequence[JsonObject]) -> list[JsonObject]:
    """The tiers of a new price as Stripe shows them: rising bounds, the last of them without end."""
    if len(given) > TIERS_MAX:
        raise ApiError(f"At most {TIERS_MAX} tiers.", param="tiers")
    *bounded, last = (one["up_to"] for one in given)
    bounds = [int(bound) for bound in bounded if bound.isdecimal()]
    rising = all(low < high for low, high in zip([0, *bounds], bounds, strict=False))
    if last != "inf" or len(bounds) != len(bounded) or not rising:
        raise ApiError("up_to must rise from tier to tier, and be inf in the last.", param="tiers")
    ends = [*bounds, None]
    return [
        {"up_to": end, **_amounts(tier, "flat", index), **_amounts(tier, "unit", index)}
        for index, (tier, end) in enumerate(zip(given, ends, strict=True))
    ]


def _amounts(tier: JsonObject, which: str, index: int) -> JsonObject:
    whole, exact = f"{which}_amount", f"{which}_amount_decimal"
    given = [Decimal(tier[name]) for name in (whole, exact) if tier.get(name) is not None]
    if len(given) > 1 or any(amount < 0 for amount in given):
        message = f"Specify at most one of {whole} and {exact}, and none below 0."
        raise ApiError(message, param=f"tiers[{index}][{whole}]")
    if not given:
        return {whole: None, exact: None}
    (amount,) = given
    return {whole: int(amount) if amount == amount.to_integral_value() else None, exact: plain(amount)}

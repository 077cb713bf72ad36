"""The amounts that Stripe takes of a charge: not too small, not too large, and no fractions that a currency lacks.

Source: https://docs.stripe.com/currencies. Here the payout is in dollars, as of an account with one bank account: a
charge in a currency without a least charge of its own must be worth half a dollar. Rates are rough.
"""

from decimal import Decimal
from typing import Final

from usage_tasks.stripe_simulator.wire.errors import ApiError

AMOUNT_MAX: Final = 99_999_999
_LEAST: Final = {
    **dict.fromkeys(("usd", "eur", "aud", "brl", "cad", "chf", "inr", "jpy", "nzd", "sgd"), 50),
    "aed": 200,
    "bgn": 100,
    "czk": 1500,
    "dkk": 250,
    "gbp": 30,
    "hkd": 400,
    "huf": 17500,
    "mxn": 1000,
    "myr": 200,
    "nok": 300,
    "pln": 200,
    "ron": 200,
    "sek": 300,
    "thb": 1000,
}
_ISK_AND_UGX: Final = ("isk", "ugx")
_THREE_DECIMALS: Final = ("bhd", "jod", "kwd", "omr", "tnd")
_MINOR_A_DOLLAR: Final = {
    "jpy": 155,
    "krw": 1440,
    "clp": 940,
    "vnd": 26300,
    "pyg": 7100,
    "xof": 565,
    "xaf": 565,
    "rwf": 1455,
    "kwd": 307,
    "bhd": 377,
    "omr": 385,
    "jod": 709,
    "tnd": 2930,
    "inr": 8900,
    "isk": 12700,
    "ugx": 358000,
    "idr": 1670000,
    "huf": 33200,
    "twd": 3150,
    "try": 4240,
}
"""The worth of a dollar, for the currencies where 50 minor units are far from half a dollar."""


def check_amount(amount: int, currency: str) -> None:
    """Refuse an amount in minor units that Stripe would refuse."""
    step = 100 if currency in _ISK_AND_UGX else 10 if currency in _THREE_DECIMALS else 1
    if amount % step:
        message = f"Invalid amount. The amount in {currency} must be a multiple of {step}."
        raise ApiError(message, code="parameter_invalid_integer", param="amount")
    in_dollars = Decimal(100 * amount) / _MINOR_A_DOLLAR.get(currency, 100)
    if amount < _LEAST.get(currency, 0) or in_dollars < _LEAST["usd"]:
        raise ApiError("Amount must convert to at least 50 cents.", code="amount_too_small", param="amount")
    if amount > AMOUNT_MAX:
        raise ApiError(f"Amount must be no more than {AMOUNT_MAX}.", code="amount_too_large", param="amount")

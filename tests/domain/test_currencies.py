"""Facts of https://docs.stripe.com/currencies, and that our table agrees with them."""

from decimal import Decimal

import pytest

from usage_tasks.domain.currencies import AMOUNT_MAX, find_currency, get_currency, known_currencies
from usage_tasks.domain.errors import InvalidInputError

ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
THREE = "bhd jod kwd omr tnd"
LEAST = {
    "usd": "0.50",
    "aed": "2.00",
    "aud": "0.50",
    "bgn": "1.00",
    "brl": "0.50",
    "cad": "0.50",
    "chf": "0.50",
    "czk": "15.00",
    "dkk": "2.50",
    "eur": "0.50",
    "gbp": "0.30",
    "hkd": "4.00",
    "huf": "175.00",
    "inr": "0.50",
    "jpy": "50",
    "mxn": "10",
    "myr": "2",
    "nok": "3.00",
    "nzd": "0.50",
    "pln": "2.00",
    "ron": "2.00",
    "sek": "3.00",
    "sgd": "0.50",
    "thb": "10",
}


def test_the_decimals_of_each_currency_are_stripes() -> None:
    for code in known_currencies():
        expected = 0 if code in ZERO.split() else 3 if code in THREE.split() else 2
        assert get_currency(code).decimals == expected, code
    assert len(known_currencies()) > 135
    assert {*ZERO.split(), *THREE.split(), *LEAST, "isk", "ugx", "twd"} <= known_currencies()


@pytest.mark.parametrize("code", sorted(known_currencies()))
def test_what_we_hold_is_an_amount_that_stripe_takes(code: str) -> None:
    currency = get_currency(code)
    assert currency.charge_min <= currency.hold <= AMOUNT_MAX
    assert code not in LEAST or currency.to_major(currency.charge_min) == Decimal(LEAST[code])
    # The last digit of three decimals is 0; the currencies that Stripe counts with two needless decimals have 00.
    assert currency.hold % (10 if code in THREE.split() else 100 if code in ("isk", "ugx") else 1) == 0


@pytest.mark.parametrize(
    ("code", "hold"),
    [("eur", "1"), ("usd", "1"), ("gbp", "1"), ("jpy", "200"), ("kwd", "0.5"), ("ugx", "5000"), ("isk", "200")],
)
def test_what_we_hold_is_small(code: str, hold: str) -> None:
    assert get_currency(code).to_major(get_currency(code).hold) == Decimal(hold)


def test_a_currency_that_the_table_does_not_know_has_two_decimals() -> None:
    assert find_currency("zzz") is None
    unknown = get_currency("zzz")
    assert (unknown.decimals, unknown.hold, unknown.to_major(150)) == (2, 100, Decimal("1.5"))


@pytest.mark.parametrize(
    ("code", "amount"), [("usd", 49), ("usd", AMOUNT_MAX + 1), ("kwd", 505), ("ugx", 150), ("jpy", 0)]
)
def test_an_amount_that_stripe_would_refuse_is_refused_by_name(code: str, amount: int) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"`amount`: must be from .* minor units of {code}.* \(got {amount}\)$"
    ):
        get_currency(code).check(amount)

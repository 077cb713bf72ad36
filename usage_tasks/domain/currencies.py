"""Currencies as Stripe counts them: the digits of an amount, the least charge, and the amount that we hold.

Source: https://docs.stripe.com/currencies (minor units, special cases, minimum charge amounts), read in November 2026.
An amount is in minor units: 100 for 1.00 of a currency with two decimals, 100 for 100 yen, 1000 for 1.000 dinar.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from usage_tasks.domain.errors import InvalidInputError

AMOUNT_MAX: Final = 99_999_999
"""Stripe takes eight digits; more in a few currencies, which we never need."""

_ZERO_DECIMAL: Final = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
_THREE_DECIMAL: Final = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
"""Of an amount the last digit must be 0."""

_WHOLE_ONLY: Final = frozenset({"isk", "ugx"})
"""Without decimals, yet Stripe counts them with two, which must be 00."""

_HOLDS: Final = """
    aed 500, afn 10000, all 10000, amd 50000, ang 200, aoa 100000, ars 300000, aud 200, awg 200, azn 200, bam 200,
    bbd 300, bdt 15000, bgn 200, bhd 500, bif 5000, bmd 100, bnd 200, bob 1000, brl 1000, bsd 100, btn 10000, bwp
    2000, byn 500, bzd 300, cad 200, cdf 300000, chf 100, clp 2000, cny 1000, cop 500000, crc 100000, cve 10000, czk
    3000, djf 200, dkk 1000, dop 10000, dzd 15000, egp 10000, etb 20000, eur 100, fjd 300, fkp 100, gbp 100, gel
    300, ghs 2000, gip 100, gmd 10000, gnf 10000, gtq 1000, gyd 30000, hkd 1000, hnl 3000, htg 15000, huf 50000, idr
    2000000, ils 500, inr 10000, isk 20000, jmd 20000, jod 1000, jpy 200, kes 15000, kgs 10000, khr 500000, kmf 500,
    krw 2000, kwd 500, kyd 100, kzt 100000, lak 3000000, lbp 10000000, lkr 40000, lrd 20000, lsl 2000, mad 1000, mdl
    2000, mga 5000, mkd 10000, mmk 300000, mnt 500000, mop 1000, mur 5000, mvr 2000, mwk 200000, mxn 2000, myr 500,
    mzn 10000, nad 2000, ngn 200000, nio 5000, nok 2000, npr 20000, nzd 200, omr 500, pab 100, pen 500, pgk 500, php
    10000, pkr 30000, pln 500, pyg 10000, qar 500, ron 500, rsd 15000, rub 10000, rwf 2000, sar 500, sbd 1000, scr
    2000, sek 2000, sgd 200, shp 100, sle 3000, sos 100000, srd 5000, std 3000000, svc 1000, szl 2000, thb 4000, tjs
    1500, tnd 3000, top 300, try 10000, ttd 1000, twd 4000, tzs 300000, uah 5000, ugx 500000, usd 100, uyu 5000, uzs
    1500000, vnd 30000, vuv 200, wst 300, xaf 1000, xcd 300, xof 1000, xpf 200, yer 30000, zar 2000, zmw 3000
"""
"""The amount to hold in each currency that Stripe takes: 1.00 in euros and dollars, elsewhere a round amount worth 1 to
5 dollars. For Stripe compares a charge with the least charge in the currency that it pays out in: 1.00 rupee, which is
above the least charge in rupees, is refused where dollars are paid out.
"""

_LEAST: Final = """
    aed 200, ars 50, aud 50, bgn 100, brl 50, cad 50, chf 50, cop 50, czk 1500, dkk 250, eur 50, gbp 30, hkd 400,
    huf 17500, idr 50, ils 50, inr 50, jpy 50, krw 50, mxn 1000, myr 200, nok 300, nzd 50, php 50, pln 200, ron 200,
    rub 50, sek 300, sgd 50, thb 1000, usd 50, zar 50
"""
"""The least charge, where Stripe has one of its own for the currency; elsewhere only that of the payout counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Currency:
    """A currency: `decimals` of Stripe's amounts, the `step` that they must be a multiple of, and two amounts.

    `charge_min` and `hold` are in minor units.
    """

    code: str
    decimals: int
    step: int
    charge_min: int
    hold: int

    def __post_init__(self) -> None:
        """Raise InvalidInputError for a hold that Stripe would refuse."""
        self.check(self.hold)

    def check(self, amount: int) -> None:
        """Raise InvalidInputError for an amount in minor units that Stripe would refuse to charge."""
        if amount % self.step or not self.charge_min <= amount <= AMOUNT_MAX:
            allowed = f"from {self.charge_min} to {AMOUNT_MAX} minor units of {self.code}, a multiple of {self.step}"
            raise InvalidInputError("amount", amount, allowed)

    def to_major(self, amount: int) -> Decimal:
        """Turn minor units into the amount that people read."""
        return Decimal(amount).scaleb(-self.decimals)


def find_currency(code: str) -> Currency | None:
    """Return a currency that Stripe takes; None for a code that the table does not know."""
    return _KNOWN.get(code)


def get_currency(code: str) -> Currency:
    """Return a currency; an unknown code gets two decimals, as most currencies have."""
    return _KNOWN.get(code) or _build(code, hold=100, charge_min=50)


def known_currencies() -> frozenset[str]:
    """Return the codes of the currencies that Stripe takes."""
    return frozenset(_KNOWN)


def _build(code: str, *, hold: int, charge_min: int | None) -> Currency:
    decimals = 0 if code in _ZERO_DECIMAL else 3 if code in _THREE_DECIMAL else 2
    step = 100 if code in _WHOLE_ONLY else 10 if code in _THREE_DECIMAL else 1
    return Currency(code=code, decimals=decimals, step=step, charge_min=charge_min or step, hold=hold)


def _read(table: str) -> dict[str, int]:
    return {code: int(amount) for code, amount in (each.split() for each in table.split(","))}


def _known() -> Mapping[str, Currency]:
    least = _read(_LEAST)
    return {code: _build(code, hold=hold, charge_min=least.get(code)) for code, hold in _read(_HOLDS).items()}


_KNOWN: Final = _known()

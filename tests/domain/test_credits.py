from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_tasks.domain.credits import (
    CreditCents,
    billable_quantity,
    cents_to_credits,
    credits_to_cents,
    parse_credits,
)
from usage_tasks.domain.errors import InvalidInputError


@pytest.mark.holds("numbers.credit-cents")
@pytest.mark.parametrize(
    ("credits_", "cents"),
    [
        ("0", 0),
        ("0.1", 10),
        ("1.1111", 111),
        ("1.4999", 150),
        ("1.5", 150),
        ("1.501", 150),
        ("1.50999", 151),
        ("1.9999", 200),
        ("-1.9999", -200),
        ("0.005", 1),
        ("-0.005", -1),
        ("0.015", 2),
        ("0.025", 3),
    ],
)
def test_credits_become_cents_with_half_a_cent_away_from_zero(credits_: str, cents: int) -> None:
    assert credits_to_cents(Decimal(credits_)) == cents


@pytest.mark.holds("numbers.credit-cents")
@given(st.decimals(-(10**9), 10**9, places=6))
def test_cents_are_within_half_a_cent_of_the_credits(amount: Decimal) -> None:
    assert abs(credits_to_cents(amount) - Fraction(amount) * 100) <= Fraction(1, 2)


@given(st.integers(-(10**16), 10**16))
def test_cents_survive_the_way_to_credits_and_back(cents: int) -> None:
    assert credits_to_cents(cents_to_credits(cents)) == cents


@pytest.mark.holds("stripe.quantity")
@pytest.mark.parametrize(
    ("cents", "quantity"),
    [(0, 0), (1, 1), (99, 1), (100, 1), (101, 2), (103_100, 1031), (-1, 0), (-100, 0), (-103_100, 0)],
)
def test_a_balance_is_billed_in_whole_credits_rounded_up_and_never_below_zero(cents: int, quantity: int) -> None:
    assert billable_quantity(CreditCents(cents)) == quantity


@given(st.integers(-(10**14), 10**14).filter(bool))
def test_credits_as_text_are_read_to_the_cent(cents: int) -> None:
    assert parse_credits(str(cents_to_credits(cents))) == cents


@pytest.mark.parametrize(
    "text", ["0", "-0.004", "1e3", "NaN", "1,5", "", "1.", ".5", "+1", "1000000000000.001", "٣", "1\n"]
)
def test_other_text_and_nothing_are_no_amount_of_credits(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_credits(text)
    assert str(refused.value) == (
        "`amount`: must be credits as decimal text such as 12.50, not 0, from -1000000000000 to 1000000000000 "
        f"(got {text!r})"
    )


@pytest.mark.parametrize("text", ["0", "-0", "0.00", "0.004"])
def test_nothing_is_an_amount_where_it_is_asked_for(text: str) -> None:
    assert parse_credits(text, zero=True) == 0
    with pytest.raises(InvalidInputError) as refused:
        parse_credits("none", field="cap", zero=True)
    assert str(refused.value) == (
        "`cap`: must be credits as decimal text such as 12.50, from -1000000000000 to 1000000000000 (got 'none')"
    )


@pytest.mark.parametrize("text", ["1000000000000", "-1000000000000"])
def test_the_largest_amounts_are_read(text: str) -> None:
    assert parse_credits(text) == int(text) * 100

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.factories import HOUR, START
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.prices import ALL_TIME, AskedPrice, decide_version, parse_amount
from usage_tasks.domain.rating import PER_SECOND, ChargeRule, PriceVersion

TICK = timedelta(microseconds=1)
MILLION = Decimal(1_000_000)
FIRST_RULE = ChargeRule(minimum_cents=CreditCents(10), rounding_seconds=60)
SECOND_RULE = ChargeRule(minimum_cents=CreditCents(25), rounding_seconds=3600)
STANDING = [
    PriceVersion(effective_from=ALL_TIME, credits_per_minute=Decimal("0.1"), rule=FIRST_RULE),
    PriceVersion(effective_from=START, credits_per_minute=Decimal("0.2"), rule=SECOND_RULE),
]


def asked(effective_from: datetime = ALL_TIME, **terms: Any) -> AskedPrice:
    values: dict[str, Any] = {"minimum_cents": None, "rounding_seconds": None}
    price = Decimal("0.5")
    return AskedPrice(
        workspace_class="small", effective_from=effective_from, credits_per_minute=price, **(values | terms)
    )


@pytest.mark.parametrize("text", ["0", "0.5", "0.50", "1000000", "000000000001", "0.12345678901234567890"])
def test_an_amount_is_read_exactly(text: str) -> None:
    read = parse_amount(text, largest=MILLION, fractional_digits_max=20)
    assert str(read) == str(Decimal(text))


@pytest.mark.parametrize(
    "text",
    [
        "", "-1", "+1", "1e3", "NaN", "Infinity", ".5", "1.", "1,5", " 1", "1 ", "1\n", "٣", "0x1", "0000000000001",
        "1000000.1", "1000001", "0.123456789012345678901",
    ],
)  # fmt: skip
def test_any_other_amount_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="must be a decimal") as refused:
        parse_amount(text, largest=MILLION, fractional_digits_max=20)
    assert str(refused.value) == (
        f"must be a decimal such as 0.5, from 0 to 1000000, with at most 20 fractional digits (got {text!r})"
    )


def test_the_largest_amount_and_the_number_of_digits_are_the_callers() -> None:
    assert parse_amount("7.25", largest=Decimal("7.25"), fractional_digits_max=2) == Decimal("7.25")
    with pytest.raises(ValueError, match=r"from 0 to 7\.25, with at most 2 fractional digits"):
        parse_amount("7.26", largest=Decimal("7.25"), fractional_digits_max=2)
    with pytest.raises(ValueError, match=r"from 0 to 7\.25, with at most 2 fractional digits"):
        parse_amount("7.000", largest=Decimal("7.25"), fractional_digits_max=2)


def test_a_long_amount_is_named_by_its_beginning() -> None:
    with pytest.raises(ValueError, match="must be a decimal") as refused:
        parse_amount("9" * 5_000, largest=MILLION, fractional_digits_max=20)
    assert str(refused.value).endswith(f"(got '{'9' * 79}...)")


def test_the_first_version_of_a_class_is_for_all_time_and_charged_to_the_second() -> None:
    assert decide_version(asked(), []) == PriceVersion(
        effective_from=ALL_TIME, credits_per_minute=Decimal("0.5"), rule=PER_SECOND
    )


@pytest.mark.parametrize("effective_from", [START, ALL_TIME + TICK, ALL_TIME - TICK])
def test_a_class_without_a_price_takes_none_that_is_not_for_all_time(effective_from: datetime) -> None:
    with pytest.raises(InvalidInputError) as refused:
        decide_version(asked(effective_from), [])
    assert str(refused.value) == (
        "`effective_from`: must be 1970-01-01T00:00:00+00:00 for the first price of 'small', which holds for all time "
        f"(got {effective_from.isoformat()!r})"
    )


@pytest.mark.parametrize("effective_from", [ALL_TIME, START])
def test_an_instant_that_has_a_version_takes_no_other(effective_from: datetime) -> None:
    with pytest.raises(InvalidInputError) as refused:
        decide_version(asked(effective_from), STANDING)
    assert str(refused.value) == (
        "`effective_from`: must be an instant without a version of this class (a microsecond later corrects the "
        f"existing version) (got {effective_from.isoformat()!r})"
    )


@pytest.mark.parametrize(
    ("effective_from", "rule"),
    [
        (ALL_TIME + TICK, FIRST_RULE),
        (START - TICK, FIRST_RULE),
        (START + TICK, SECOND_RULE),
        (START + HOUR, SECOND_RULE),
    ],
)
def test_what_is_not_asked_for_stays_as_it_was_just_before(effective_from: datetime, rule: ChargeRule) -> None:
    decided = decide_version(asked(effective_from), STANDING)
    assert decided == PriceVersion(effective_from=effective_from, credits_per_minute=Decimal("0.5"), rule=rule)


def test_a_minimum_and_a_step_that_are_asked_for_hold_even_where_they_are_nothing() -> None:
    free = decide_version(asked(START + HOUR, minimum_cents=CreditCents(0)), STANDING)
    assert free.rule == ChargeRule(minimum_cents=CreditCents(0), rounding_seconds=3600)
    by_the_second = decide_version(asked(START + HOUR, rounding_seconds=1), STANDING)
    assert by_the_second.rule == ChargeRule(minimum_cents=CreditCents(25), rounding_seconds=1)
    first = decide_version(asked(minimum_cents=CreditCents(7), rounding_seconds=5), [])
    assert first.rule == ChargeRule(minimum_cents=CreditCents(7), rounding_seconds=5)

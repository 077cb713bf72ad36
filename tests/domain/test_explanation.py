"""The text of an explanation, word for word; tests/pricing holds the text to the ledger."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from tests.factories import DAY, HOUR, START, make_id, team
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.explanation import (
    ExplainedEntry,
    SessionExplanation,
    SessionFacts,
    SettlementExplanation,
    explain_session,
    session_in_words,
    settlement_in_words,
)
from usage_tasks.domain.prices import ALL_TIME
from usage_tasks.domain.rating import ChargeRule, PriceVersion, rate

IT = make_id("it")
MINUTE = timedelta(minutes=1)
NAME = f"Session {IT} of class small on {team()}"
HISTORY = [
    PriceVersion(effective_from=ALL_TIME, credits_per_minute=Decimal(1)),
    PriceVersion(effective_from=START + MINUTE, credits_per_minute=Decimal(2)),
]


def facts(**fields: Any) -> SessionFacts:
    stopped_at = START + timedelta(seconds=90)
    values: dict[str, Any] = {
        "instance_id": IT,
        "attribution_id": team(),
        "workspace_class": "small",
        "started_at": START,
        "ended_at": stopped_at,
        "stopped_at": stopped_at,
        "revision": 1,
        "posted_revision": 1,
    }
    return SessionFacts(**(values | fields))


def entry(credit_cents: int, *, revision: int = 1, effective_at: datetime = START + HOUR) -> ExplainedEntry:
    return ExplainedEntry(
        key=f"session:it:{revision}",
        kind="session",
        credit_cents=credit_cents,
        effective_at=effective_at,
        posted_at=START + DAY,
        description="A session",
    )


def explained(
    it: SessionFacts | None = None,
    *entries: ExplainedEntry,
    versions: list[PriceVersion] = HISTORY,
    at: datetime = START + 2 * DAY,
    asked: ExplainedEntry | None = None,
) -> SessionExplanation:
    known = it or facts()
    rating = rate(known.started_at, min(at, known.ended_at or at), versions)
    return explain_session(known, rating, entries, histories={known.workspace_class: versions}, at=at, entry=asked)


def lines(it: SessionExplanation) -> list[str]:
    return session_in_words(it).split("\n")


def test_a_session_is_set_out_span_by_span() -> None:
    posted = entry(150)
    it = explained(facts(), posted, asked=posted)
    assert [(span.seconds, span.credits_per_minute, span.effective_from, span.product) for span in it.spans] == [
        (60, Decimal(1), ALL_TIME, Decimal(60)),
        (30, Decimal(2), START + MINUTE, Decimal(60)),
    ]
    assert (it.runtime_seconds, it.rounding_seconds, it.charged_seconds) == (90, 1, 90)
    assert it.exact == Decimal(120)
    assert [it.metered_cents, it.minimum_cents, it.credit_cents] == [200, 0, 200]
    assert (it.posted_cents, it.pending_cents) == (150, 50)
    assert (it.facts, it.at, list(it.entries), it.entry) == (facts(), START + 2 * DAY, [posted], posted)


def test_a_final_session_is_told_from_its_seconds_to_its_entry() -> None:
    assert session_in_words(explained(facts(), entry(200))) == (
        f"{NAME} ran from 2026-01-01 00:00:00+00:00 to 2026-01-01 00:01:30+00:00: 90 seconds.\n"
        "60 seconds at 1 credits a minute (the first price): 60 x 1 = 60.\n"
        "30 seconds at 2 credits a minute (the price since 2026-01-01 00:01:00+00:00): 30 x 2 = 60.\n"
        "The sum is 120. A minute has 60 seconds and a credit has 100 credit cents: "
        "120 / 60 x 100, rounded once, half up, is 200 credit cents.\n"
        "It costs 200 credit cents (2.00 credits).\n"
        "Posted 2026-01-02 00:00:00+00:00 as session:it:1: 200, effective 2026-01-01 01:00:00+00:00; "
        "0 before, 200 after."
    )


def test_a_step_and_the_least_charge_are_told() -> None:
    rule = ChargeRule(minimum_cents=CreditCents(150), rounding_seconds=60)
    it = explained(versions=[PriceVersion(effective_from=ALL_TIME, credits_per_minute=Decimal("0.5"), rule=rule)])
    assert lines(it)[1:5] == [
        "Charged in steps of 60 seconds: 120 seconds.",
        "120 seconds at 0.5 credits a minute (the first price): 120 x 0.5 = 60.",
        (
            "The sum is 60. A minute has 60 seconds and a credit has 100 credit cents: "
            "60 / 60 x 100, rounded once, half up, is 100 credit cents."
        ),
        "The least charge is 150 credit cents.",
    ]
    assert lines(it)[5] == "It costs 150 credit cents (1.50 credits)."
    assert (it.rounding_seconds, it.charged_seconds, it.metered_cents, it.minimum_cents) == (60, 120, 100, 150)


def test_steps_of_two_seconds_are_told_and_a_least_charge_that_is_met_is_not() -> None:
    rule = ChargeRule(minimum_cents=CreditCents(150), rounding_seconds=2)
    it = explained(versions=[PriceVersion(effective_from=ALL_TIME, credits_per_minute=Decimal(1), rule=rule)])
    assert lines(it)[1] == "Charged in steps of 2 seconds: 90 seconds."
    assert "least charge" not in session_in_words(it)


def test_a_long_price_is_told_in_full_digits_and_no_exponent() -> None:
    price = Decimal("0.00000000001234567891")
    it = explained(versions=[PriceVersion(effective_from=ALL_TIME, credits_per_minute=price)])
    product = "0.0000000011111111019"
    assert lines(it)[1:3] == [
        (
            "90 seconds at 0.00000000001234567891 credits a minute (the first price): "
            f"90 x 0.00000000001234567891 = {product}."
        ),
        (
            f"The sum is {product}. A minute has 60 seconds and a credit has 100 credit cents: "
            f"{product} / 60 x 100, rounded once, half up, is 0 credit cents."
        ),
    ]


def test_a_product_longer_than_a_decimals_usual_digits_is_exact() -> None:
    price = Decimal("999999.12345678901234567891")
    it = explained(
        facts(ended_at=START + 36_500 * DAY, stopped_at=None),
        versions=[PriceVersion(effective_from=ALL_TIME, credits_per_minute=price)],
        at=START + 40_000 * DAY,
    )
    assert Fraction(it.exact) == 36_500 * 86_400 * Fraction(price) == Fraction(it.spans[0].product)


@pytest.mark.parametrize("ended_at", [None, START + 2 * HOUR])
def test_a_session_that_runs_is_a_draft_as_of_the_instant(ended_at: datetime | None) -> None:
    it = explained(facts(ended_at=ended_at, stopped_at=ended_at, revision=1, posted_revision=0), at=START + HOUR)
    told = lines(it)
    assert told[0] == (
        f"{NAME} runs from 2026-01-01 00:00:00+00:00 and is priced as of 2026-01-01 01:00:00+00:00: 3600 seconds."
    )
    assert told[-1] == "It is a draft: 11900 credit cents are not posted."


def test_a_session_that_stops_at_the_instant_ran_and_is_no_draft() -> None:
    stopped_at = START + HOUR
    told = lines(explained(facts(ended_at=stopped_at, stopped_at=stopped_at), entry(11_900), at=stopped_at))
    assert told[0] == f"{NAME} ran from 2026-01-01 00:00:00+00:00 to 2026-01-01 01:00:00+00:00: 3600 seconds."
    assert told[-1].startswith("Posted ")


def test_a_session_that_is_stopping_ran_and_is_a_draft() -> None:
    told = lines(explained(facts(stopped_at=None, posted_revision=0)))
    assert told[0].endswith("ran from 2026-01-01 00:00:00+00:00 to 2026-01-01 00:01:30+00:00: 90 seconds.")
    assert told[-1] == "It is a draft: 200 credit cents are not posted."


def test_a_session_that_stopped_before_it_started_is_told_so() -> None:
    ended_at = START - HOUR
    told = lines(explained(facts(ended_at=ended_at, stopped_at=ended_at), entry(0)))
    assert (
        told[0] == f"{NAME} stopped 2025-12-31 23:00:00+00:00, before it started 2026-01-01 00:00:00+00:00: 0 seconds."
    )


def test_a_session_that_stopped_as_it_started_ran() -> None:
    told = lines(explained(facts(ended_at=START, stopped_at=START), entry(0)))
    assert told[0].endswith("ran from 2026-01-01 00:00:00+00:00 to 2026-01-01 00:00:00+00:00: 0 seconds.")


def test_entries_are_added_up_and_the_one_asked_for_is_named() -> None:
    first, second = entry(120), entry(30, revision=2)
    third = entry(50, revision=3, effective_at=START + 2 * HOUR)
    told = lines(explained(facts(), first, second, third, asked=third))
    posted = "Posted 2026-01-02 00:00:00+00:00 as"
    assert told[-3:] == [
        f"{posted} session:it:1: 120, effective 2026-01-01 01:00:00+00:00; 0 before, 120 after.",
        f"{posted} session:it:2: 30, effective 2026-01-01 01:00:00+00:00; 120 before, 150 after.",
        f"{posted} session:it:3, the entry asked for: 50, effective 2026-01-01 02:00:00+00:00; 150 before, 200 after.",
    ]


def test_an_entry_that_was_corrected_later_is_told_so() -> None:
    first, second, third = entry(150), entry(30, revision=2), entry(20, revision=3)
    told = lines(explained(facts(), first, second, third, asked=first))
    assert "session:it:1, the entry asked for: 150" in told[-4]
    assert [line.count("asked for") for line in told[-3:-1]] == [0, 0]
    assert told[-1] == ("Facts or prices were corrected after the entry asked for; the seconds above are as known now.")


@pytest.mark.parametrize(
    ("known", "posted", "last"),
    [
        (facts(revision=2), 150, "The next run of the ledger job posts what is missing: 50 credit cents."),
        (facts(revision=2), 250, "The next run of the ledger job posts what is missing: -50 credit cents."),
        (facts(), 150, "Entries that take effect later make up the rest: 50 credit cents."),
        (facts(), 201, "Entries that take effect later make up the rest: -1 credit cents."),
    ],
)
def test_what_is_not_in_the_ledger_is_told_with_when_it_will_be(known: SessionFacts, posted: int, last: str) -> None:
    assert lines(explained(known, entry(posted)))[-1] == last


SETTLED = SettlementExplanation(
    attribution_id=team(),
    entry=replace(entry(-50_000, effective_at=START), key="reset:1", kind="reset", description="Allowance"),
    balance_before_cents=80_000,
    balance_after_cents=30_000,
    spending_limit=500,
)


def test_a_reset_is_told_by_balance_limit_cover_and_rest() -> None:
    assert settlement_in_words(SETTLED) == (
        f"Allowance: -50000 credit cents (-500.00 credits) on {team()}, "
        "effective 2026-01-01 00:00:00+00:00, posted 2026-01-02 00:00:00+00:00 as reset:1.\n"
        "Balance: 80000 before, 30000 after, in credit cents.\n"
        "The allowance covers the smaller of the balance at the cycle's end and the limit of 500 credits: "
        "50000 credit cents covered, 30000 carried over."
    )


def test_a_reset_of_another_balance_than_the_one_known_now_says_so() -> None:
    it = replace(SETTLED, spending_limit=600)
    assert settlement_in_words(it).split("\n")[-1] == (
        "That balance was another when the cycle was ended: what came later counts in the next cycle."
    )


def test_an_entry_without_an_allowance_is_told_by_the_balances_around_it() -> None:
    it = replace(SETTLED, spending_limit=None)
    assert settlement_in_words(it).split("\n") == settlement_in_words(SETTLED).split("\n")[:2]


def test_an_allowance_of_nothing_covers_nothing_and_is_told() -> None:
    free = replace(SETTLED.entry, credit_cents=0)
    it = replace(SETTLED, entry=free, balance_after_cents=80_000, spending_limit=0)
    (told,) = settlement_in_words(it).split("\n")[2:]
    assert told.endswith("limit of 0 credits: 0 credit cents covered, 80000 carried over.")

"""Explanations are recomputed from their own words."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from tests.examples import examples
from tests.factories import DAY, HOUR, START, SYSTEM, make_id, record, session_report, stopped_report, team, used
from tests.ledger.test_cost_center import STRIPE, put
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.explanation import SessionExplanation, SettlementExplanation
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.prices import AskedPrice
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.ledger.reset import reset_due
from usage_tasks.services.pricing.add_price import add_price_version
from usage_tasks.services.pricing.explain import Explained, explain_entry, explain_instance
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.ledger.entries import Entry, append_entries

NOW = START + 2 * DAY
IT = make_id("it")


def explained(connection: Connection, **fields: Any) -> Explained:
    return explain_instance(connection, IT, at=fields.get("at", NOW))


def numbers_of(answer: Explained) -> SessionExplanation:
    assert isinstance(answer.numbers, SessionExplanation)
    return answer.numbers


def change_price(connection: Connection, price: str, since: timedelta, **fields: Any) -> None:
    values: dict[str, Any] = {"workspace_class": "xlarge", "minimum_cents": None, "rounding_seconds": None}
    asked = AskedPrice(credits_per_minute=Decimal(price), effective_from=START + since, **(values | fields))
    add_price_version(connection, asked, at=NOW, actor=SYSTEM)


def find(pattern: str, text: str) -> list[str]:
    found = re.search(pattern, text, re.MULTILINE)
    assert found, f"{pattern} is not in: {text}"
    return list(found.groups())


def recompute(text: str) -> dict[str, int]:
    """Do every sum in the text, from the text alone. Each result must match the text."""
    ran = int(find(r": (\d+) seconds?\.$", text)[0])
    steps = re.search(r"^Charged in steps of (\d+) seconds: (\d+) seconds?\.$", text, re.MULTILINE)
    step = int(steps[1]) if steps else 1
    priced = r"^(\d+) seconds? at ([\d.]+) credits a minute \(.*\): \1 x \2 = ([\d.]+)\.$"
    spans = re.findall(priced, text, re.MULTILINE)
    assert all(int(seconds) * Fraction(price) == Fraction(product) for seconds, price, product in spans)
    assert sum(int(seconds) for seconds, _, _ in spans) == -(-ran // step) * step
    assert steps is None or int(steps[2]) == -(-ran // step) * step
    total, metered = find(
        r"^The sum is ([\d.]+)\. .*: \1 / 60 x 100, rounded once, half up, is (\d+) credit cents\.$", text
    )
    assert Fraction(total) == sum(Fraction(product) for _, _, product in spans)
    assert (10 * Fraction(total) + 3) // 6 == int(metered)
    least = re.search(r"^The least charge is (\d+) credit cents\.$", text, re.MULTILINE)
    cents, in_credits = find(r"^It costs (\d+) credit cents \((.+) credits\)\.$", text)
    # A runtime of 0 costs nothing, and no minimum charge is mentioned.
    assert int(cents) == max(int(metered), int(least[1]) if least else 0)
    assert Decimal(in_credits) * 100 == int(cents)
    posted = 0
    for entry, before, after in re.findall(
        r"^Posted .*: (-?\d+), effective .*; (-?\d+) before, (-?\d+) after\.$", text, re.M
    ):
        assert (int(before), int(after)) == (posted, posted + int(entry))
        posted += int(entry)
    rest = re.search(r"^(?:It is a draft|The next run .*|Entries that .*): (-?\d+) credit cents", text, re.MULTILINE)
    assert int(cents) == posted + (int(rest[1]) if rest else 0)
    return {"cents": int(cents), "posted": posted, "spans": len(spans)}


@pytest.mark.holds("usage.explain")
def test_a_final_session_is_explained_span_by_span(connection: Connection) -> None:
    change_price(connection, "2", timedelta(minutes=1))
    record(connection, stopped_report(timedelta(seconds=90), instance_id=IT, workspace_class="xlarge"))
    post_batch(connection, at=NOW)
    answer = explained(connection)
    assert recompute(answer.text) == {"cents": 200, "posted": 200, "spans": 2}
    posted_at = numbers_of(answer).entries[0].posted_at.isoformat(sep=" ")
    assert answer.text == (
        f"Session {IT} of class xlarge on {team()} ran from 2026-01-01 00:00:00+00:00 to 2026-01-01 00:01:30+00:00: "
        "90 seconds.\n"
        "60 seconds at 1 credits a minute (the first price): 60 x 1 = 60.\n"
        "30 seconds at 2 credits a minute (the price since 2026-01-01 00:01:00+00:00): 30 x 2 = 60.\n"
        "The sum is 120. A minute has 60 seconds and a credit has 100 credit cents: "
        "120 / 60 x 100, rounded once, half up, is 200 credit cents.\n"
        "It costs 200 credit cents (2.00 credits).\n"
        f"Posted {posted_at} as session:{IT}:1: 200, effective 2026-01-01 00:01:30+00:00; 0 before, 200 after."
    )


@pytest.mark.holds("usage.explain")
def test_a_step_and_a_minimum_are_told(connection: Connection) -> None:
    change_price(connection, "0.5", timedelta(0), minimum_cents=CreditCents(150), rounding_seconds=60)
    record(connection, stopped_report(timedelta(seconds=61), instance_id=IT, workspace_class="xlarge"))
    text = explained(connection).text
    assert "Charged in steps of 60 seconds: 120 seconds." in text
    assert "The least charge is 150 credit cents." in text
    assert recompute(text) == {"cents": 150, "posted": 0, "spans": 1}


def test_a_running_session_is_explained_as_of_an_instant(connection: Connection) -> None:
    record(connection, session_report(instance_id=IT, workspace_class="xlarge"))
    answer = explained(connection, at=START + HOUR)
    assert "and is priced as of 2026-01-01 01:00:00+00:00: 3600 seconds." in answer.text
    assert "It is a draft: 6000 credit cents are not posted." in answer.text
    assert recompute(answer.text)["cents"] == get_balance(connection, team(), at=START + HOUR)
    assert recompute(explained(connection, at=START - HOUR).text) == {"cents": 0, "posted": 0, "spans": 0}


@pytest.mark.holds("numbers.runtime-so-far")
@pytest.mark.parametrize(
    ("facts", "asked", "seconds"),
    [
        ({"stopping_at": 6}, 12, 360),
        ({"stopping_at": 6}, -39, 0),
        ({}, 12, 720),
        ({}, -60, 0),
        ({"stopped_at": 0}, 12, 0),
    ],
)
def test_a_session_ran_for_what_had_passed_of_it_by_the_instant_asked(
    connection: Connection, facts: dict[str, int], asked: int, seconds: int
) -> None:
    moments: dict[str, Any] = {name: START + timedelta(minutes=minutes) for name, minutes in facts.items()}
    record(connection, session_report(instance_id=IT, workspace_class="xlarge", **moments))
    text = explained(connection, at=START + timedelta(minutes=asked)).text
    assert find(r": (\d+) seconds?\.$", text) == [str(seconds)]
    assert recompute(text)["cents"] == seconds * 100 // 60


@pytest.mark.holds("usage.explain")
def test_an_adjustment_is_explained_with_all_that_was_posted(connection: Connection) -> None:
    record(connection, stopped_report(HOUR, instance_id=IT, workspace_class="xlarge"))
    post_batch(connection, at=NOW)
    record(connection, stopped_report(2 * HOUR, instance_id=IT, workspace_class="xlarge", observed_at=NOW))
    missing = explained(connection).text
    assert "The next run of the ledger job posts what is missing: 6000 credit cents." in missing
    assert recompute(missing) == {"cents": 12_000, "posted": 6000, "spans": 1}
    post_batch(connection, at=NOW)
    latest = explain_entry(connection, team(), f"session:{IT}:2", at=NOW)
    assert recompute(latest.text) == {"cents": 12_000, "posted": 12_000, "spans": 1}
    assert f"session:{IT}:2, the entry asked for: 6000" in latest.text
    assert "corrected" not in latest.text
    first = explain_entry(connection, team(), f"session:{IT}:1", at=NOW)
    assert f"session:{IT}:1, the entry asked for: 6000" in first.text
    assert "Facts or prices were corrected after the entry asked for" in first.text


def test_a_session_that_stopped_before_it_started_is_told_so(connection: Connection) -> None:
    record(connection, stopped_report(-HOUR, instance_id=IT))
    post_batch(connection, at=NOW)
    text = explained(connection).text
    assert "stopped 2025-12-31 23:00:00+00:00, before it started 2026-01-01 00:00:00+00:00: 0 seconds." in text
    assert recompute(text)["cents"] == 0


def settled(connection: Connection, key: str, *, at: Any = None) -> tuple[SettlementExplanation, str]:
    answer = explain_entry(connection, team(), key, at=at or add_months(START, 3))
    assert isinstance(answer.numbers, SettlementExplanation)
    numbers, text = answer.numbers, answer.text
    before, after = map(int, find(r"^Balance: (-?\d+) before, (-?\d+) after", text))
    cents = int(find(r": (-?\d+) credit cents \(-?[\d.]+ credits\) on team:", text)[0])
    told = (before, after, cents)
    assert told == (numbers.balance_before_cents, numbers.balance_after_cents, numbers.entry.credit_cents)
    assert before + cents == after
    return numbers, text


def test_a_reset_is_explained_by_balance_limit_and_cover(connection: Connection) -> None:
    record(connection, at=START)
    used(connection, team(), 80_000, at=START + DAY)
    reset_due(connection, at=add_months(START, 1) + DAY)
    cycle = START + DAY  # the account was opened by its first session
    key = f"reset:{cycle.isoformat()}"
    numbers, text = settled(connection, key)
    assert (numbers.balance_before_cents, numbers.balance_after_cents, numbers.spending_limit) == (80_000, 30_000, 500)
    limit, covered, carried = map(int, find(r"limit of (\d+) credits: (\d+) credit cents covered, (\d+) carried", text))
    assert covered == min(numbers.balance_before_cents, limit * 100)
    assert carried == numbers.balance_before_cents - covered
    assert "another when the cycle was ended" not in text
    used(connection, team(), 10_000, at=START + 2 * DAY)
    assert (
        "another when the cycle was ended" not in settled(connection, key)[1]
    )  # the limit was covered in full all the same


def test_a_reset_that_knew_of_less_says_so(connection: Connection) -> None:
    used(connection, team(), 10_000, at=START + DAY)
    reset_due(connection, at=add_months(START, 1) + DAY)
    used(connection, team(), 10_000, at=START + 2 * DAY)
    numbers, text = settled(connection, f"reset:{(START + DAY).isoformat()}")
    assert (numbers.balance_before_cents, numbers.balance_after_cents) == (20_000, 10_000)
    assert "10000 credit cents covered" in text
    assert "another when the cycle was ended: what came later counts in the next cycle" in text


@pytest.mark.holds("usage.explain")
def test_an_upgrade_and_an_invoice_are_explained_by_the_balances_around_them(connection: Connection) -> None:
    used(connection, team(), 5000, at=START + DAY)
    put(connection, STRIPE, attribution_id=team(), at=START + 2 * DAY)
    numbers, text = settled(connection, "upgrade:2")
    assert (numbers.balance_before_cents, numbers.balance_after_cents) == (5000, 0)
    assert text.startswith("Balanced out on the upgrade to stripe: -5000 credit cents (-50.00 credits)")
    invoice = Entry(
        attribution_id=team(),
        key="invoice:in_1",
        kind=EntryKind.INVOICE,
        credit_cents=-700,
        effective_at=START + 3 * DAY,
        description="Invoice in_1 finalized in Stripe",
    )
    append_entries(connection, [invoice])
    numbers, text = settled(connection, "invoice:in_1")
    assert (numbers.balance_before_cents, numbers.balance_after_cents, numbers.spending_limit) == (0, -700, None)


def test_what_does_not_stand_is_refused_by_name(connection: Connection) -> None:
    with pytest.raises(InvalidInputError, match="instance_id"):
        explained(connection)
    with pytest.raises(InvalidInputError, match="entry_key"):
        explain_entry(connection, team(), "invoice:none", at=NOW)
    used(connection, team(), 100, at=START + DAY)
    put(connection, STRIPE, attribution_id=team(), at=START + 2 * DAY)
    with pytest.raises(InvalidInputError, match="entry_key"):
        explain_entry(connection, team("other"), "upgrade:2", at=NOW)
    with pytest.raises(InvalidInputError, match="when the entry takes effect"):
        explain_entry(connection, team(), "upgrade:2", at=START + DAY)


LENGTHS = st.integers(0, 400).map(lambda halves: timedelta(seconds=30 * halves, milliseconds=500 * (halves % 2)))
REPORTS = st.one_of(
    LENGTHS.map(lambda length: stopped_report(length, instance_id=IT, workspace_class="xlarge")),
    LENGTHS.map(lambda since: stopped_report(HOUR, started_at=START + since, instance_id=IT, workspace_class="xlarge")),
    st.just(session_report(instance_id=IT, workspace_class="xlarge")),
)
CHANGES = st.tuples(
    st.sampled_from(["0", "0.1666666667", "1.5", "20"]),
    LENGTHS,
    st.sampled_from([None, CreditCents(0), CreditCents(900)]),
    st.sampled_from([None, 1, 60, 3600]),
)


@pytest.mark.holds("usage.explain")
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.one_of(REPORTS, REPORTS, CHANGES, st.none()), min_size=2, max_size=8),
    asked=st.lists(LENGTHS, min_size=1, max_size=3),
)
def test_the_words_add_up_to_the_balance_whatever_was_reported_changed_and_posted(
    connection: Connection, steps: Sequence[Any], asked: Sequence[timedelta]
) -> None:
    savepoint = connection.begin_nested()
    record(connection, session_report(instance_id=IT, workspace_class="xlarge"))
    taken = set()
    for step in steps:
        if isinstance(step, SessionReport):
            record(connection, step)
        elif step is not None and step[1] not in taken:
            taken.add(step[1])
            change_price(connection, step[0], step[1], minimum_cents=step[2], rounding_seconds=step[3])
        else:
            post_batch(connection, at=NOW)
    for at in [*(START + length for length in asked), NOW]:
        answer = explained(connection, at=at)
        assert recompute(answer.text)["cents"] == get_balance(connection, team(), at=at)
        assert recompute(answer.text)["posted"] == sum(each.credit_cents for each in numbers_of(answer).entries)
        assert sum(span.product for span in numbers_of(answer).spans) == numbers_of(answer).exact
        assert asdict(answer.numbers)["credit_cents"] == get_balance(connection, team(), at=at)
    savepoint.rollback()

"""Price versions by hand: the usage that they re-price, the dry run's report of it, and the usage left alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import DAY, HOUR, START, SYSTEM, make_id, record, session_report, stopped_report, team
from tests.snapshot import take_snapshot
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.prices import ALL_TIME, AskedPrice
from usage_tasks.domain.rating import ChargeRule
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.operations.verify_ledger import GRACE, verify
from usage_tasks.services.pricing.add_price import PriceChange, add_price_version, plan_price_version
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.pricing.prices import list_versions, publish_prices

NOW = START + 2 * DAY
MICROSECOND = timedelta(microseconds=1)
ENTRIES = """
    SELECT attribution_id, key, kind, credit_cents, effective_at, description, instance_id
    FROM ledger_entry ORDER BY attribution_id, key
"""


def asked(price: str = "2", since: datetime = START, **fields: Any) -> AskedPrice:
    values: dict[str, Any] = {"workspace_class": "xlarge", "minimum_cents": None, "rounding_seconds": None}
    return AskedPrice(credits_per_minute=Decimal(price), effective_from=since, **(values | fields))


def add(connection: Connection, price: str = "2", since: datetime = START, **fields: Any) -> PriceChange:
    return add_price_version(connection, asked(price, since, **fields), at=NOW, actor=SYSTEM)


def plan(connection: Connection, price: str = "2", since: datetime = START, **fields: Any) -> PriceChange:
    return plan_price_version(connection, asked(price, since, **fields), actor=SYSTEM)


def entries(connection: Connection) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in connection.execute(text(ENTRIES))]


def as_rows(change: PriceChange) -> list[dict[str, Any]]:
    """A plan's sample as `entries` returns posted entries."""
    rows = [dict(row) for row in change.repricing.adjustments.sample]
    for row in rows:
        row["effective_at"] = datetime.fromisoformat(str(row["effective_at"]))
        row["instance_id"] = str(row["instance_id"])
    return sorted(rows, key=lambda row: (str(row["attribution_id"]), str(row["key"])))


def posted_since(connection: Connection, before: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [row for row in entries(connection) if row not in before]
    return [row | {"instance_id": str(row["instance_id"])} for row in rows]


def posted(connection: Connection, *reports: SessionReport) -> None:
    record(connection, *reports)
    post_batch(connection, at=NOW)


@pytest.mark.holds("numbers.past-price")
def test_a_price_of_the_past_adjusts_what_is_posted_and_says_so_before(connection: Connection) -> None:
    ends = (START + HOUR, START + 2 * HOUR)
    posted(connection, *(stopped_report(2 * HOUR, workspace_class="xlarge", started_at=end - 2 * HOUR) for end in ends))
    before = entries(connection)
    written = take_snapshot(connection)
    planned = plan(connection)
    assert take_snapshot(connection) == written
    assert (planned.repricing.adjustments.rows, planned.repricing.adjustments.credit_cents) == (2, 6000 + 12_000)
    assert [(each.attribution_id, each.entries, each.credit_cents) for each in planned.repricing.by_account] == [
        (team(), 2, 18_000)
    ]
    assert add(connection) == planned
    assert entries(connection) == before
    assert get_balance(connection, team(), at=NOW) == 24_000 + 18_000  # at once, as a draft
    assert post_batch(connection, at=NOW).credit_cents == 18_000
    assert posted_since(connection, before) == as_rows(planned)
    assert {(row["kind"], str(row["key"]).rpartition(":")[2]) for row in as_rows(planned)} == {("adjustment", "2")}
    assert get_balance(connection, team(), at=NOW) == 24_000 + 18_000
    assert verify(connection, at=NOW).clean
    assert post_batch(connection, at=NOW).entries == 0


def test_what_a_price_opened_again_is_no_finding_before_the_next_tick(connection: Connection) -> None:
    posted(connection, stopped_report(HOUR, workspace_class="xlarge"))
    connection.execute(text("UPDATE workspace_instance SET recorded_at = recorded_at - interval '1 day'"))
    add(connection)
    assert verify(connection, at=NOW, grace=GRACE).clean
    assert not verify(connection, at=NOW).clean


@pytest.mark.holds("numbers.past-price")
def test_a_price_to_come_waits(connection: Connection) -> None:
    posted(connection, stopped_report(HOUR, workspace_class="xlarge"))
    running = session_report(workspace_class="xlarge", started_at=NOW)
    record(connection, running)
    change = add(connection, since=NOW + HOUR)
    assert (change.repricing.adjustments.rows, change.repricing.accounts, change.repricing.by_account) == (0, 0, [])
    assert post_batch(connection, at=NOW).entries == 0
    balances = [get_balance(connection, team(), at=NOW + hours * HOUR) for hours in (0, 1, 2)]
    assert balances == [6000, 12_000, 24_000]


def test_only_sessions_that_are_priced_otherwise_are_opened_again(connection: Connection) -> None:
    posted(
        connection,
        stopped_report(HOUR, workspace_class="xlarge", started_at=START - 2 * HOUR),  # ended before
        stopped_report(HOUR, workspace_class="xlarge", started_at=START - HOUR),  # ended just then
        stopped_report(HOUR, workspace_class="small"),
        stopped_report(timedelta(0), workspace_class="xlarge"),
        stopped_report(HOUR, workspace_class="xlarge", instance_id=make_id("it")),
    )
    assert add(connection).repricing.adjustments.rows == 1
    opened = connection.execute(text("SELECT instance_id FROM open_session"))
    assert opened.scalars().all() == [make_id("it")]


def test_a_version_between_two_others_prices_what_lies_between(connection: Connection) -> None:
    posted(connection, stopped_report(4 * HOUR, workspace_class="xlarge"))
    add(connection, "3", START + 3 * HOUR)
    add(connection, "2", START + HOUR)
    assert post_batch(connection, at=NOW).credit_cents == 2 * 6000 + 2 * 6000
    later = stopped_report(HOUR, workspace_class="xlarge", started_at=START + 3 * HOUR)
    posted(connection, later)
    assert add(connection, "9", START + 2 * HOUR).repricing.adjustments.rows == 1
    assert verify(connection, at=NOW).findings[1].offenders == 1
    post_batch(connection, at=NOW)
    assert verify(connection, at=NOW).clean


def test_a_wrong_version_is_corrected_a_microsecond_later(connection: Connection) -> None:
    posted(connection, stopped_report(HOUR, workspace_class="xlarge"))
    add(connection, "200")
    post_batch(connection, at=NOW)
    with pytest.raises(InvalidInputError, match="a microsecond later corrects"):
        add(connection, "2")
    add(connection, "2", START + MICROSECOND)
    post_batch(connection, at=NOW)
    assert get_balance(connection, team(), at=NOW) == 12_000
    keys = [str(row["key"])[-1] for row in entries(connection)]
    assert keys == ["1", "2", "3"]


def test_what_is_left_out_stays_as_it_was_just_before(connection: Connection) -> None:
    add(connection, "1", START, minimum_cents=CreditCents(50), rounding_seconds=60)
    assert add(connection, "2", START + HOUR).version.rule == ChargeRule(
        minimum_cents=CreditCents(50), rounding_seconds=60
    )
    assert add(connection, "2", START + 2 * HOUR, rounding_seconds=1).version.rule.rounding_seconds == 1
    assert add(connection, "2", START - HOUR).version.rule.rounding_seconds == 1


def test_a_minimum_and_a_step_re_price_too(connection: Connection) -> None:
    posted(
        connection,
        stopped_report(timedelta(seconds=1), workspace_class="xlarge"),
        stopped_report(timedelta(seconds=61), workspace_class="xlarge"),
    )
    change = add(connection, "1", minimum_cents=CreditCents(150), rounding_seconds=60)
    assert change.repricing.adjustments.credit_cents == 150 - 2 + 200 - 102
    post_batch(connection, at=NOW)
    assert verify(connection, at=NOW).clean


def test_a_new_class_begins_with_a_price_for_all_time(connection: Connection) -> None:
    with pytest.raises(InvalidInputError, match="for the first price of 'gold'"):
        add(connection, workspace_class="gold")
    add(connection, workspace_class="gold", since=ALL_TIME)
    posted(connection, stopped_report(HOUR, workspace_class="gold"))
    assert get_balance(connection, team(), at=NOW) == 12_000


def test_a_change_of_price_leaves_an_audit_row_of_no_account(connection: Connection) -> None:
    posted(connection, stopped_report(HOUR, workspace_class="xlarge"))
    plan(connection)
    add(connection)
    (row,) = connection.execute(text("SELECT at, actor, action, attribution_id, details FROM audit")).all()
    assert (row.at, row.actor, row.action, row.attribution_id) == (NOW, SYSTEM, "price_version.add", None)
    assert row.details["workspace_class"] == "xlarge"
    assert (row.details["credits_per_minute"], row.details["adjustment_cents"]) == ("2", 6000)


def test_of_many_adjustments_the_largest_are_listed_and_all_are_counted(connection: Connection) -> None:
    sessions = [
        stopped_report(timedelta(minutes=n), workspace_class="xlarge", attribution_id=team(n)) for n in range(1, 104)
    ]
    posted(connection, *sessions)
    change = plan(connection).repricing
    assert (change.adjustments.rows, change.accounts) == (103, 103)
    assert change.adjustments.credit_cents == sum(range(1, 104)) * 100
    assert [each.credit_cents for each in change.by_account] == [100 * n for n in range(103, 3, -1)]
    assert [row["credit_cents"] for row in change.adjustments.sample] == [100 * n for n in range(103, 3, -1)]


def test_the_file_does_not_undo_a_version_by_hand_until_it_changes(connection: Connection) -> None:
    add(connection, "2", NOW)
    add(connection, "3", NOW + 30 * DAY)
    file = {"xlarge": Decimal(1)}
    assert publish_prices(connection, file, at=NOW + DAY, actor=SYSTEM) == 0
    assert publish_prices(connection, file, at=NOW + 31 * DAY, actor=SYSTEM) == 0
    assert publish_prices(connection, {"xlarge": Decimal(5)}, at=NOW + 32 * DAY, actor=SYSTEM) == 1
    found = [(int(each.version.credits_per_minute), each.origin) for each in list_versions(connection, "xlarge")]
    assert found == [(1, "configuration"), (2, "operator"), (3, "operator"), (5, "configuration")]


def test_the_file_may_change_while_a_version_by_hand_waits(connection: Connection) -> None:
    add(connection, "3", NOW + 30 * DAY)
    assert publish_prices(connection, {"xlarge": Decimal(2)}, at=NOW, actor=SYSTEM) == 1
    prices = [each.version.credits_per_minute for each in list_versions(connection, "xlarge")]
    assert prices == [1, 2, 3]


def test_a_class_by_hand_that_the_file_takes_up_holds_from_then_on(connection: Connection) -> None:
    add(connection, workspace_class="gold", since=ALL_TIME)
    assert publish_prices(connection, {"gold": Decimal(4)}, at=NOW, actor=SYSTEM) == 1
    first, second = list_versions(connection, "gold")
    assert (int(first.version.credits_per_minute), second.version.effective_from) == (2, NOW)


def test_the_file_publishes_a_rule_that_changed(connection: Connection) -> None:
    rules = {"xlarge": ChargeRule(minimum_cents=CreditCents(7), rounding_seconds=60)}
    file = {"xlarge": Decimal(1)}
    assert publish_prices(connection, file, rules=rules, at=NOW, actor=SYSTEM) == 1
    assert publish_prices(connection, file, rules=rules, at=NOW + DAY, actor=SYSTEM) == 0
    assert list_versions(connection, "xlarge")[-1].version.rule == rules["xlarge"]
    assert publish_prices(connection, file, at=NOW + DAY, actor=SYSTEM) == 1


def test_a_change_waits_for_a_posting_and_finds_what_it_posted(database: Database) -> None:
    with database.transaction() as connection:
        record(connection, stopped_report(HOUR, workspace_class="xlarge"))

    def change() -> PriceChange:
        with database.transaction() as connection:
            return add(connection)

    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            assert post_batch(connection, at=NOW).credit_cents == 6000
            changing = pool.submit(change)
            with pytest.raises(TimeoutError):
                changing.result(timeout=0.3)
        assert changing.result().repricing.adjustments.credit_cents == 6000


def test_a_posting_waits_for_a_change_and_posts_at_its_price(database: Database) -> None:
    with database.transaction() as connection:
        record(connection, stopped_report(HOUR, workspace_class="xlarge"))

    def post() -> int:
        with database.transaction() as connection:
            return post_batch(connection, at=NOW).credit_cents

    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            add(connection)
            posting = pool.submit(post)
            with pytest.raises(TimeoutError):
                posting.result(timeout=0.3)
        assert posting.result() == 12_000


def test_a_session_that_a_report_corrects_meanwhile_is_adjusted_once(database: Database) -> None:
    wrong = stopped_report(HOUR, workspace_class="xlarge")
    with database.transaction() as connection:
        posted(connection, wrong)

    def change() -> PriceChange:
        with database.transaction() as connection:
            return add(connection)

    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            longer = {"instance_id": wrong.instance_id, "workspace_class": "xlarge", "observed_at": NOW}
            record(connection, stopped_report(2 * HOUR, **longer))
            changing = pool.submit(change)
            with pytest.raises(TimeoutError):
                changing.result(timeout=0.3)
        assert changing.result().repricing.adjustments.rows == 0  # the correction has opened it
    with database.transaction() as connection:
        assert post_batch(connection, at=NOW).credit_cents == 2 * 12_000 - 6000
        assert [str(row["key"])[-1] for row in entries(connection)] == ["1", "2"]
        assert verify(connection, at=NOW).clean


OFFSETS = st.integers(-4, 60).map(lambda quarters: timedelta(minutes=15 * quarters))
VERSIONS = st.builds(
    lambda since, price, minimum, step: asked(price, START + since, minimum_cents=minimum, rounding_seconds=step),
    since=OFFSETS,
    price=st.sampled_from(["0", "0.5", "1", "2.3333333333"]),
    minimum=st.sampled_from([None, CreditCents(0), CreditCents(2000)]),
    step=st.sampled_from([None, 1, 60, 3600]),
)
SESSIONS = st.builds(
    lambda name, since, length: stopped_report(
        length, instance_id=make_id(name), started_at=START + since, workspace_class="xlarge"
    ),
    name=st.integers(0, 2),
    since=OFFSETS,
    length=st.integers(0, 40).map(lambda steps: timedelta(minutes=7 * steps, milliseconds=500)),
)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(SESSIONS, SESSIONS, VERSIONS, st.none()), min_size=3, max_size=12))
def test_whatever_the_order_of_reports_prices_and_ticks_the_plan_is_what_is_posted_and_verify_is_clean(
    connection: Connection, steps: Sequence[SessionReport | AskedPrice | None]
) -> None:
    savepoint = connection.begin_nested()
    taken = {ALL_TIME}
    for step in steps:
        if isinstance(step, SessionReport):
            record(connection, step)
        elif isinstance(step, AskedPrice) and step.effective_from not in taken:
            taken.add(step.effective_from)
            post_batch(connection, at=NOW)  # so that the next posting has only the effects of the price
            before = entries(connection)
            planned = plan_price_version(connection, step, actor=SYSTEM)
            assert add_price_version(connection, step, at=NOW, actor=SYSTEM) == planned
            post_batch(connection, at=NOW)
            assert posted_since(connection, before) == as_rows(planned)
        else:
            post_batch(connection, at=NOW)
    post_batch(connection, at=NOW)
    assert verify(connection, at=NOW).describe() == ""
    savepoint.rollback()

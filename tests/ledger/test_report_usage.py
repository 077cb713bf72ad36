import base64
import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from tests.factories import (
    DAY,
    HOUR,
    START,
    SYSTEM,
    account_of,
    add_version,
    make_id,
    record,
    session_report,
    stopped_report,
    team,
)
from usage_tasks.domain.access import AccessError
from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.prices import ALL_TIME
from usage_tasks.domain.rating import ChargeRule, PriceVersion
from usage_tasks.services.ledger.post_usage import cap_batch, post_batch
from usage_tasks.services.ledger.read_usage import get_standing
from usage_tasks.services.ledger.report_usage import UsageReport, parse_token, report_usage
from usage_tasks.storage.ledger.usage_report import Group, Scope, sum_usage

MINUTE = timedelta(minutes=1)
END = START + 31 * DAY
PERSON = Actor(f"user:{make_id('owner')}")
XLARGE = {"workspace_class": "xlarge"}  # 1 credit a minute


def report(connection: Connection, *group_by: Group, **asked: Any) -> UsageReport:
    options: dict[str, Any] = {"actor": SYSTEM, "start": START, "end": END, "at": END} | asked
    account = options.pop("account", account_of(team()))
    return report_usage(connection, account, group_by=group_by or (Group.DAY,), **options)


def figures(found: UsageReport) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in found.rows]


@pytest.mark.holds("usage.split-range", "usage.report")
def test_a_session_over_midnight_is_split_at_it_and_counted_on_both_days(connection: Connection) -> None:
    record(connection, stopped_report(HOUR, started_at=START + DAY - 20 * MINUTE, **XLARGE))
    found = report(connection)
    assert figures(found) == [(date(2026, 1, 1), 2000, 1200, 1), (date(2026, 1, 2), 4000, 2400, 1)]
    assert (found.totals.credit_cents, found.totals.seconds, found.totals.sessions) == (6000, 3600, 1)


@pytest.mark.holds("usage.split-range")
def test_a_range_takes_its_own_part_of_a_session_and_the_parts_sum_to_the_whole(connection: Connection) -> None:
    # 1 h at 1 cent in 6 s, cut in the middle of a cent: rounded one by one the parts would come to more.
    record(connection, stopped_report(HOUR, workspace_class="small"))
    cuts = [START, *(START + timedelta(seconds=3 + 7 * number) for number in range(500)), END]
    parts = [
        report(connection, start=begin, end=end).totals.credit_cents
        for begin, end in pairwise(cuts)
        if begin < START + HOUR
    ]
    assert sum(parts) == report(connection).totals.credit_cents == 600


@pytest.mark.holds("usage.split-minimum")
def test_a_minimum_accrues_with_the_first_second_and_a_step_as_it_begins(connection: Connection) -> None:
    rule = ChargeRule(minimum_cents=CreditCents(150), rounding_seconds=60)
    add_version(connection, "steps", PriceVersion(effective_from=ALL_TIME, credits_per_minute=Decimal(1), rule=rule))
    record(connection, stopped_report(200 * timedelta(seconds=1), workspace_class="steps"))
    edges = [0, 1, 60, 61, 119, 121, 180, 181, 200, 1000]
    spans = [(START + timedelta(seconds=a), START + timedelta(seconds=b)) for a, b in pairwise(edges)]
    parts = [report(connection, start=begin, end=end).totals.credit_cents for begin, end in spans]
    assert parts == [150, 0, 50, 0, 100, 0, 100, 0, 0]


@pytest.mark.holds("usage.report")
def test_drafts_count_as_of_the_instant_asked_and_no_further(connection: Connection) -> None:
    record(connection, session_report(**XLARGE))
    assert figures(report(connection, at=START + 10 * MINUTE)) == [(date(2026, 1, 1), 1000, 600, 1)]
    assert report(connection, at=START - MINUTE).rows == []
    later = report(connection, start=START + 5 * MINUTE, at=START + 10 * MINUTE)
    assert (later.totals.credit_cents, later.totals.seconds) == (500, 300)


def test_a_capped_session_counts_up_to_its_cap(connection: Connection) -> None:
    record(connection, session_report(**XLARGE))
    cap_batch(connection, at=START + DAY, heartbeat_grace=10 * MINUTE, lifetime_max=None)
    assert report(connection).totals.credit_cents == 1000


@pytest.mark.holds("usage.split-range")
def test_all_of_time_is_what_is_posted_plus_what_is_not(connection: Connection) -> None:
    wrong = stopped_report(2 * HOUR, **XLARGE)
    record(connection, wrong, session_report(**XLARGE), stopped_report(-HOUR), session_report(stopping_at=START + HOUR))
    post_batch(connection, at=START + DAY)
    record(connection, stopped_report(3 * HOUR, instance_id=wrong.instance_id, observed_at=START + DAY, **XLARGE))
    found = report(connection, at=START + DAY)
    balance = get_standing(connection, account_of(team()), at=START + DAY).balance_cents
    posted = connection.execute(text("SELECT sum(credit_cents) FROM ledger_entry")).scalar_one()
    assert found.totals.credit_cents == balance > posted > 0
    assert found.totals.sessions == 4


@pytest.fixture
def many(connection: Connection) -> Connection:
    """Two accounts, two users, two classes, three days; all posted."""
    for number in range(12):
        record(
            connection,
            stopped_report(
                (number + 1) * MINUTE,
                started_at=START + number % 3 * DAY,
                attribution_id=team(number % 2),
                user_id=make_id(number // 6),
                workspace_id=f"ws-{number % 4}",
                workspace_class=["large", "xlarge"][number // 3 % 2],
            ),
        )
    post_batch(connection, at=END)
    return connection


def by_hand(connection: Connection, group_by: Sequence[Group]) -> list[tuple[Any, ...]]:
    """Sum the posted entries, joined to their sessions: no session of this history is cut."""
    special = {Group.DAY: "(started_at AT TIME ZONE 'UTC')::date", Group.STATE: "COALESCE(w.timeline ->> 0, 'running')"}
    names = [special.get(group, f"w.{group}") for group in group_by]
    keys = ", ".join(names)
    statement = f"""
        SELECT {keys}, sum(e.credit_cents)::bigint, sum(extract(epoch FROM stopped_at - started_at))::bigint, count(*)
        FROM ledger_entry e JOIN workspace_instance w USING (instance_id) GROUP BY {keys} ORDER BY {keys}
    """  # noqa: S608 - names of ours
    return [tuple(row) for row in connection.execute(text(statement))]


@pytest.mark.holds("usage.report")
@pytest.mark.parametrize(
    "group_by",
    [
        [Group.DAY],
        [Group.WORKSPACE_CLASS],
        [Group.USER_ID, Group.DAY],
        [Group.DAY, Group.WORKSPACE_CLASS],
        [Group.ATTRIBUTION_ID, Group.WORKSPACE_ID],
        [*Group],
    ],
)
def test_rows_are_summed_by_any_combination_of_groups(many: Connection, group_by: Sequence[Group]) -> None:
    found = report(many, *group_by, account=None)
    assert figures(found) == by_hand(many, group_by)
    assert (found.totals.rows, found.totals.sessions) == (len(found.rows), 12)
    assert found.next_page_token is None


@pytest.mark.parametrize("group_by", [[Group.DAY, Group.USER_ID, Group.WORKSPACE_ID], [Group.ATTRIBUTION_ID]])
def test_pages_go_on_where_the_last_one_ended_and_tell_the_same_totals(
    many: Connection, group_by: Sequence[Group]
) -> None:
    whole = report(many, *group_by, account=None)
    rows: list[Any] = []
    page = report(many, *group_by, account=None, limit=1)
    while token := page.next_page_token:
        rows += page.rows
        page = report(many, *group_by, account=None, limit=1, after=parse_token(token).after)
        assert page.totals == whole.totals
    assert [*rows, *page.rows] == whole.rows
    assert len(whole.rows) > 1


def test_one_account_is_reported_alone_and_a_scope_may_be_one_user_of_it(many: Connection) -> None:
    alone = report(many, Group.ATTRIBUTION_ID, account=account_of(team(1)))
    assert [row["attribution_id"] for row in alone.rows] == [team(1)]
    scope = Scope(account=team(1), user_id=make_id(0))
    rows, totals = sum_usage(many, scope, start=START, end=END, at=END, groups=[Group.USER_ID], after=None, limit=10)
    assert [(row.user_id, row.sessions) for row in rows] == [(make_id(0), 3)]
    assert 0 < totals.credit_cents < alone.totals.credit_cents


def test_every_account_together_is_not_for_everybody(many: Connection) -> None:
    with pytest.raises(AccessError, match="the installation"):
        report(many, account=None, actor=PERSON)
    with pytest.raises(AccessError, match=team(1)):
        report(many, account=account_of(team(1)), actor=PERSON)


def token(at: str, *keys: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps([at, keys]).encode()).decode()


@pytest.mark.holds("usage.from-after-to", "usage.report")
@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"start": END, "end": START}, "start"),
        ({"end": START + 366 * DAY + timedelta(microseconds=1)}, "end"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"group_by": (Group.DAY, Group.DAY)}, "group_by"),
        ({"group_by": ()}, "group_by"),
        ({"after": {Group.USER_ID: UUID(int=1)}}, "page_token"),
    ],
)
def test_what_is_not_allowed_is_refused_and_named(connection: Connection, asked: dict[str, Any], field: str) -> None:
    options: dict[str, Any] = {"start": START, "end": END, "at": END, "group_by": (Group.DAY,)} | asked
    with pytest.raises(InvalidInputError) as refused:
        report_usage(connection, account_of(team()), actor=SYSTEM, **options)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "told",
    [
        "",
        "x",
        "é",
        "bnVsbA==",
        token("2026-01-01T00:00:00", ("day", "2026-01-01")),
        token("soon", ("day", "2026-01-01")),
        token("2026-01-01T00:00:00+00:00", ("month", "2026-01-01")),
        token("2026-01-01T00:00:00+00:00", ("day", "x")),
        token("2026-01-01T00:00:00+00:00", ("user_id", "x")),
        *[
            token("2026-01-01T00:00:00+00:00", (group, text))
            for group in Group
            for text in ("\0", "a\0", "\ud800", "a\udfff", "\x01", "\u2028", "\n")
        ],
        token("\ud800", ("day", "2026-01-01")),
        token("2026-01-01T00:00:00+00:00", ("\ud800", "x")),
        "\0",
        "W10=\0",
        "\ud800",
        base64.urlsafe_b64encode(b"[" * 2900).decode(),
    ],
)
def test_a_token_that_no_page_gave_is_refused(told: str) -> None:
    with pytest.raises(InvalidInputError, match="page_token"):
        parse_token(told)


@pytest.mark.holds("usage.report")
def test_a_leap_year_fits_into_one_report(connection: Connection) -> None:
    start = datetime(2028, 1, 1, tzinfo=START.tzinfo)
    assert report(connection, start=start, end=add_months(start, 12), at=start).rows == []

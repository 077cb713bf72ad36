from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.factories import DAY, HOUR, START, account_of, make_id, record, session_report, stopped_report, team
from tests.ledger.test_cost_center import STRIPE, get, put
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.limits import LimitState
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.ledger.read_usage import UsagePage, get_standing, list_usage
from usage_tasks.storage.ledger.entries import Entry, append_entries

MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
END = add_months(START, 1)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"start": START + MICROSECOND, "end": START}, "start"),
    ({"start": START, "end": START + 300 * DAY + MICROSECOND}, "end"),
    ({"page": -1}, "page"),
    ({"page": 10**30}, "page"),
    ({"per_page": -1}, "per_page"),
    ({"per_page": 1001}, "per_page"),
]


def usage(connection: Connection, start: datetime = START, end: datetime = END, **fields: Any) -> UsagePage:
    options = {"at": END + 2 * DAY} | fields
    return list_usage(connection, account_of(team()), start=start, end=end, **options)


def used_in(connection: Connection, start: datetime, end: datetime) -> tuple[int, int]:
    page = usage(connection, start, end)
    return page.credit_cents_used, page.total_entries


@pytest.fixture
def five(connection: Connection) -> Connection:
    """Drafts and finals around a range: two before it, two within, one after."""
    for ended_at, cents, final in [
        (START - 23 * HOUR, 100, False),
        (START - 23 * HOUR, 200, True),
        (START + 2 * HOUR, 300, False),
        (START + 2 * HOUR, 400, True),
        (END + 2 * HOUR, 1000, True),
    ]:
        times = {"started_at": ended_at - MINUTE * (cents // 100), "stopping_at": ended_at}
        stopped = {"stopped_at": ended_at + MINUTE} if final else {}
        record(connection, session_report(workspace_class="xlarge", **times, **stopped))
    assert post_batch(connection, at=END + 2 * DAY).entries == 3
    return connection


@pytest.mark.holds("usage.summary", "usage.list")
def test_usage_is_what_took_effect_in_the_range_with_drafts(five: Connection) -> None:
    assert used_in(five, START, END) == (700, 2)
    assert used_in(five, END, END) == (0, 0)
    assert used_in(five, START, START) == (0, 0)
    assert used_in(five, START - 200 * DAY, END) == (1000, 4)
    assert used_in(five, START - 200 * DAY, END + 10 * DAY) == (2000, 5)


@pytest.mark.holds("usage.summary")
def test_each_entry_says_whether_it_is_a_draft(five: Connection) -> None:
    told = [(entry.draft, entry.credit_cents) for entry in usage(five).entries]
    assert sorted(told) == [(False, 400), (True, 300)]


@pytest.mark.holds("usage.range-edges")
def test_a_range_holds_its_start_and_not_its_end(connection: Connection) -> None:
    ends = [START, END - timedelta(seconds=1) + timedelta(microseconds=999), END, END + HOUR]
    record(connection, *(stopped_report(HOUR, started_at=end - HOUR, workspace_class="xlarge") for end in ends))
    post_batch(connection, at=END + DAY)
    assert used_in(connection, START, END) == (12_000, 2)
    assert used_in(connection, START + MICROSECOND, END) == (6000, 1)
    assert used_in(connection, START, END + MICROSECOND) == (18_000, 3)


@pytest.mark.holds("numbers.runtime", "usage.draft")
def test_a_running_session_is_a_draft_until_now(connection: Connection) -> None:
    record(connection, session_report(workspace_class="xlarge"))
    (draft,) = usage(connection, at=START + 12 * MINUTE).entries
    assert (draft.draft, draft.kind, draft.credit_cents, draft.effective_at) == (
        True,
        "session",
        1200,
        START + 12 * MINUTE,
    )
    assert usage(connection, at=START - HOUR).entries == []


@pytest.mark.holds("usage.draft")
def test_a_stopping_session_is_a_draft_until_its_stopping(connection: Connection) -> None:
    record(connection, session_report(stopping_at=START + 6 * MINUTE, workspace_class="xlarge"))
    (draft,) = usage(connection, at=START + HOUR).entries
    assert (draft.draft, draft.credit_cents, draft.effective_at) == (True, 600, START + 6 * MINUTE)
    (earlier,) = usage(connection, at=START + 3 * MINUTE).entries
    assert (earlier.credit_cents, earlier.effective_at) == (300, START + 3 * MINUTE)


def test_a_correction_is_a_draft_of_the_difference_until_it_is_posted(connection: Connection) -> None:
    first = stopped_report(10 * MINUTE, workspace_class="xlarge")
    record(connection, first)
    post_batch(connection, at=START + DAY)
    record(connection, stopped_report(15 * MINUTE, instance_id=first.instance_id, workspace_class="xlarge"))
    before = [(each.kind, each.draft, each.credit_cents) for each in usage(connection).entries]
    assert before == [("adjustment", True, 500), ("session", False, 1000)]
    post_batch(connection, at=START + DAY)
    after = [(each.kind, each.draft, each.credit_cents) for each in usage(connection).entries]
    assert after == [("adjustment", False, 500), ("session", False, 1000)]


@pytest.mark.holds("usage.summary")
def test_what_settles_usage_is_not_usage(connection: Connection) -> None:
    record(connection, stopped_report(workspace_class="xlarge"))
    post_batch(connection, at=START + DAY)
    put(connection, STRIPE, at=START + DAY)
    for kind in (EntryKind.INVOICE, EntryKind.CREDIT_NOTE, EntryKind.RESET):
        entry = Entry(
            attribution_id=team(),
            key=kind.value,
            kind=kind,
            credit_cents=-700,
            effective_at=START + DAY,
            description="no usage",
        )
        assert append_entries(connection, [entry]) == 1
    assert used_in(connection, START, END) == (1000, 1)


def test_usage_of_another_account_is_not_shown(connection: Connection) -> None:
    record(connection, stopped_report(attribution_id=team("other")), session_report(attribution_id=team("other")))
    assert used_in(connection, START, END) == (0, 0)


@pytest.mark.holds("usage.paging")
def test_pages_are_newest_first_and_hold_each_entry_once(connection: Connection) -> None:
    instances = [make_id(number) for number in range(7)]
    record(connection, *(stopped_report(HOUR, instance_id=each) for each in instances))
    post_batch(connection, at=START + DAY)
    pages = [usage(connection, page=page, per_page=3) for page in (0, 1, 2, 3, 4)]
    assert pages[0] == pages[1]
    assert [len(page.entries) for page in pages[1:]] == [3, 3, 1, 0]
    assert {(page.total_entries, page.total_pages, page.credit_cents_used) for page in pages} == {(7, 3, 4200)}
    shown = [entry.instance_id for page in pages[1:] for entry in page.entries]
    assert shown == sorted(instances, reverse=True)
    backwards = usage(connection, order="ascending", per_page=1000)
    assert [entry.instance_id for entry in backwards.entries] == shown[::-1]


def test_corrections_of_one_session_stand_in_one_order_on_pages_of_any_size(connection: Connection) -> None:
    first = stopped_report(100 * MINUTE, workspace_class="xlarge")
    record(connection, first)
    post_batch(connection, at=START + DAY)
    for step in range(1, 12):
        again = {"instance_id": first.instance_id, "workspace_class": "xlarge", "observed_at": START + step * DAY}
        record(connection, stopped_report((100 - step * step % 37) * MINUTE, **again))
        post_batch(connection, at=START + DAY)
    whole = usage(connection, per_page=1000).entries
    assert len(whole) == 12
    for size in (1, 2, 5):
        paged = [usage(connection, page=page, per_page=size).entries for page in range(1, 12 // size + 2)]
        assert [entry for entries in paged for entry in entries] == whole


@pytest.mark.holds("usage.paging")
def test_a_page_has_50_entries_unless_asked(connection: Connection) -> None:
    record(connection, *(stopped_report() for _ in range(51)))
    assert [(len(page.entries), page.per_page) for page in (usage(connection), usage(connection, per_page=0))] == [
        (50, 50),
        (50, 50),
    ]
    assert len(usage(connection, per_page=1000).entries) == 51


@pytest.mark.holds("usage.from-after-to", "usage.paging")
def test_what_is_not_allowed_is_refused_by_its_name(connection: Connection, subtests: pytest.Subtests) -> None:
    for fields, field in REFUSED:
        with subtests.test(field):
            with pytest.raises(InvalidInputError) as refused:
                usage(connection, **fields)
            assert refused.value.field == field


@pytest.mark.holds("usage.paging")
def test_a_range_of_300_days_is_allowed(connection: Connection) -> None:
    assert used_in(connection, START, START + 300 * DAY) == (0, 0)


def test_a_standing_is_the_balance_beside_the_limit(connection: Connection) -> None:
    get(connection)
    record(connection, session_report(workspace_class="xlarge"))
    states = []
    for minutes in (400, 401, 500, 501):
        standing = get_standing(connection, account_of(team()), at=START + minutes * MINUTE)
        assert standing.balance_cents == 50_000 - standing.remaining_cents == 100 * minutes
        states.append(standing.limit_state)
    assert states == [LimitState.BELOW, LimitState.ALMOST, LimitState.REACHED, LimitState.REACHED]

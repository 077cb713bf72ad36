import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from threading import Barrier

import pytest
from sqlalchemy import Connection, text

from tests.factories import (
    DAY,
    HOUR,
    LIMITS,
    START,
    SYSTEM,
    account_of,
    record,
    session_report,
    stopped_report,
    team,
    used,
    used_report,
)
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.services.ledger.cost_center import set_cost_center
from usage_tasks.services.ledger.post_usage import announce_limits, post_batch
from usage_tasks.services.ledger.read_usage import get_standing, list_usage
from usage_tasks.services.ledger.reset import reset_due
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.posting import Posted, post_stopped
from usage_tasks.storage.operations.outbox import claim_announcements, mark_dispatched
from usage_tasks.storage.pricing.prices import publish_prices

MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
NOTHING = Posted(entries=0, credit_cents=0)


@pytest.mark.holds("usage.nothing-to-do")
def test_nothing_to_do_posts_nothing_however_often(connection: Connection) -> None:
    record(connection, session_report(), session_report(stopping_at=START + HOUR))
    for hours in (0, 1, 1000):
        assert post_batch(connection, at=START + hours * HOUR) == NOTHING


@pytest.mark.holds("numbers.runtime", "usage.final", "lesson.no-stopping-time")
def test_a_session_without_a_stopping_time_is_billed_until_it_stopped(connection: Connection) -> None:
    record(connection, stopped_report(MINUTE, workspace_class="default"))
    assert post_batch(connection, at=START + DAY) == Posted(entries=1, credit_cents=17)


@pytest.mark.holds("numbers.runtime", "usage.final")
def test_a_session_is_billed_until_it_was_stopping(connection: Connection) -> None:
    report = stopped_report(HOUR, stopping_at=START + 6 * MINUTE, workspace_class="xlarge")
    record(connection, report)
    assert post_batch(connection, at=START + DAY).credit_cents == 600
    assert connection.execute(text("SELECT effective_at FROM ledger_entry")).scalar_one() == START + 6 * MINUTE


def test_a_session_that_stops_exactly_at_the_tick_is_posted_by_it(connection: Connection) -> None:
    record(connection, stopped_report(HOUR))
    assert post_batch(connection, at=START + HOUR - MICROSECOND) == NOTHING
    assert post_batch(connection, at=START + HOUR).entries == 1


@pytest.mark.holds("usage.late-stop", "lesson.outage")
def test_a_stop_that_arrives_after_months_is_billed_once(connection: Connection) -> None:
    for days in range(1, 100, 30):
        assert post_batch(connection, at=START + days * DAY) == NOTHING
    record(connection, stopped_report(HOUR, workspace_class="xlarge"), at=START + 100 * DAY)
    assert post_batch(connection, at=START + 100 * DAY).credit_cents == 6000
    assert post_batch(connection, at=START + 101 * DAY) == NOTHING
    assert connection.execute(text("SELECT effective_at FROM ledger_entry")).scalar_one() == START + HOUR


@pytest.mark.holds("numbers.runtime")
def test_a_session_that_stopped_before_it_started_is_billed_0_and_visible(connection: Connection) -> None:
    record(connection, stopped_report(-HOUR, stopping_at=None))
    assert post_batch(connection, at=START - MICROSECOND) == NOTHING
    assert post_batch(connection, at=START) == Posted(entries=1, credit_cents=0)
    page = list_usage(connection, account_of(team()), start=START, end=START + DAY, at=START + DAY)
    assert [(each.credit_cents, each.stops_before_start, each.draft) for each in page.entries] == [(0, True, False)]


@pytest.mark.holds("numbers.past-price", "lesson.repricing")
def test_a_price_change_never_prices_what_already_ran_anew(connection: Connection) -> None:
    across = stopped_report(2 * HOUR, workspace_class="xlarge")
    before = stopped_report(HOUR, workspace_class="xlarge")
    record(connection, across, before)
    publish_prices(connection, {"xlarge": Decimal(2)}, at=START + HOUR, actor=SYSTEM)
    assert post_batch(connection, at=START + DAY).credit_cents == 6000 + 12_000 + 6000


def test_a_batch_posts_no_more_than_its_limit(connection: Connection) -> None:
    record(connection, *(stopped_report() for _ in range(5)))
    assert [post_stopped(connection, at=START + DAY, limit=2).entries for _ in range(4)] == [2, 2, 1, 0]


def test_a_session_that_one_worker_is_posting_is_left_to_it(database: Database) -> None:
    with database.transaction() as connection:
        record(connection, stopped_report())
    with database.transaction() as one, database.transaction() as other:
        assert post_batch(one, at=START + DAY).entries == 1
        assert post_batch(other, at=START + DAY) == NOTHING
    with database.transaction() as connection:
        assert post_batch(connection, at=START + DAY) == NOTHING


@pytest.mark.holds("lesson.stale-overwrite")
def test_workers_at_once_post_each_session_once(database: Database) -> None:
    sessions, workers = 120, 4
    with database.transaction() as connection:
        accounts = [team(number % 7) for number in range(sessions)]
        record(connection, *(used_report(account, 100, at=START + HOUR) for account in accounts))
    ready = Barrier(workers)

    def work() -> int:
        posted = 0
        ready.wait()
        while True:
            with database.transaction() as connection:
                batch = post_stopped(connection, at=START + DAY, limit=10)
            if not batch.entries:
                return posted
            posted += batch.entries

    with ThreadPoolExecutor(workers) as pool:
        assert sum(each.result() for each in [pool.submit(work) for _ in range(workers)]) == sessions
    with database.transaction() as connection:
        totals = "SELECT count(*), sum(credit_cents), count(DISTINCT instance_id) FROM ledger_entry"
        assert tuple(connection.execute(text(totals)).one()) == (sessions, sessions * 100, sessions)
        assert connection.execute(text("SELECT sum(used_cents) FROM account_balance")).scalar_one() == sessions * 100


@pytest.mark.holds("lesson.silent-conflict")
def test_a_correction_that_comes_while_the_session_is_posted_is_not_lost(database: Database) -> None:
    wrong = stopped_report(HOUR, workspace_class="xlarge")
    with database.transaction() as connection:
        record(connection, wrong)

    def correct() -> None:
        with database.transaction() as connection:
            record(connection, stopped_report(2 * HOUR, instance_id=wrong.instance_id, workspace_class="xlarge"))

    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            assert post_batch(connection, at=START + DAY).credit_cents == 6000
            correction = pool.submit(correct)
            with pytest.raises(TimeoutError):
                correction.result(timeout=0.2)
        correction.result()
    with database.transaction() as connection:
        assert post_batch(connection, at=START + DAY).credit_cents == 6000


@pytest.mark.holds("limits.announced-once")
def test_a_reached_limit_is_announced_once_a_cycle(connection: Connection) -> None:
    record(connection, at=START)
    used(connection, team("over"), 50_000, at=START + 12 * HOUR)
    used(connection, team("under"), 49_990, at=START + 12 * HOUR)
    assert announce_limits(connection, at=START + DAY).limits == 1
    assert announce_limits(connection, at=START + 2 * DAY).limits == 0
    claimed = claim_announcements(connection, limit=10, lease=HOUR)
    (told,) = [each for each in claimed if each.task == "server.usage_limit_reached"]
    assert claim_announcements(connection, limit=10, lease=HOUR) == []  # leased
    payload = json.loads(told.payload)
    assert (payload["attribution_id"], payload["balance_cents"]) == (team("over"), 50_000)
    assert mark_dispatched(connection, claimed) == len(claimed)
    assert claim_announcements(connection, limit=10, lease=HOUR) == []
    while reset_due(connection, at=START + 40 * DAY).cycles:
        pass
    assert announce_limits(connection, at=START + 40 * DAY).limits == 0
    used(connection, team("over"), 50_000, at=START + 41 * DAY)
    assert announce_limits(connection, at=START + 41 * DAY).limits == 1


@pytest.mark.holds("limits.settled-first")
def test_a_limit_is_not_announced_for_usage_that_a_due_reset_will_cover(connection: Connection) -> None:
    record(connection, at=START)
    used(connection, team("twice"), 30_000, at=START + DAY)
    used(connection, team("twice"), 30_000, at=START + 32 * DAY)
    assert announce_limits(connection, at=START + 33 * DAY).limits == 0
    while reset_due(connection, at=START + 33 * DAY).cycles:
        pass
    assert announce_limits(connection, at=START + 33 * DAY).limits == 0


@pytest.mark.holds("limits.announced-again")
def test_a_limit_that_was_raised_and_is_reached_again_is_announced_again(connection: Connection) -> None:
    record(connection, at=START)
    account = account_of(team("raised"))
    used(connection, account.attribution_id, 50_000, at=START + HOUR)
    assert announce_limits(connection, at=START + DAY).limits == 1
    set_cost_center(
        connection,
        account,
        strategy=BillingStrategy.OTHER,
        spending_limit=600,
        expected_version=None,
        limits=LIMITS,
        at=START + DAY,
        actor=SYSTEM,
    )
    assert announce_limits(connection, at=START + DAY).limits == 0
    used(connection, account.attribution_id, 10_000, at=START + 2 * DAY)
    assert announce_limits(connection, at=START + 2 * DAY).limits == 1


def test_a_running_session_reaches_the_limit_between_two_ticks(connection: Connection) -> None:
    record(connection, session_report(workspace_class="xlarge"))
    edge = START + 500 * MINUTE
    assert announce_limits(connection, at=edge - MINUTE).limits == 0
    assert get_standing(connection, account_of(team()), at=edge - MINUTE).remaining_cents == 100
    assert announce_limits(connection, at=edge).limits == 1
    assert get_standing(connection, account_of(team()), at=edge).remaining_cents == 0

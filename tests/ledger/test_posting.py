"""A correction and a posting of the same session at the same moment: the second sees the work of the first."""

import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START, record, stopped_report, team
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.ledger.posting import Posted, post_stopped
from usage_tasks.storage.pricing.prices import hold_prices

WRONG = stopped_report(2 * HOUR, workspace_class="xlarge")
RIGHT = stopped_report(HOUR, instance_id=WRONG.instance_id, workspace_class="xlarge", observed_at=START + DAY)
# Price versions that only the holder of the lock can read: the posting has looked, and has not locked yet.
GATE = """
    CREATE SCHEMA gate;
    CREATE VIEW gate.price_version AS
        SELECT * FROM public.price_version WHERE pg_advisory_xact_lock(7)::text IS NOT NULL;
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def correct(database: Database) -> None:
    with database.transaction() as connection:
        record(connection, RIGHT)


def wait_until_blocked(database: Database) -> None:
    for _ in range(200):
        with database.transaction() as connection:
            if connection.execute(text(WAITING)).scalar_one():
                return
        time.sleep(0.02)
    raise AssertionError("nobody waited for a lock")


@pytest.mark.holds("lesson.outage")
def test_a_correction_that_waits_for_a_posting_opens_the_session_again(database: Database) -> None:
    with database.transaction() as connection:
        record(connection, WRONG)
    with database.transaction() as connection:
        assert post_batch(connection, at=START + DAY).credit_cents == 12_000
        correction = threading.Thread(target=correct, args=[database])
        correction.start()
        wait_until_blocked(database)
    correction.join(timeout=30)
    with database.transaction() as connection:
        row = connection.execute(text("SELECT revision, posted_cents FROM open_session")).one()
        assert tuple(row) == (2, 12_000)
        assert post_batch(connection, at=START + 2 * DAY).credit_cents == -6000
        assert get_balance(connection, team(), at=START + 2 * DAY) == 6000
        assert verify(connection, at=START + 2 * DAY).clean


def test_a_posting_leaves_alone_what_is_being_corrected(database: Database) -> None:
    with database.transaction() as connection:
        record(connection, WRONG)
    with database.transaction() as correcting:
        record(correcting, RIGHT)
        with database.transaction() as connection:
            assert post_batch(connection, at=START + DAY).entries == 0
    with database.transaction() as connection:
        assert post_batch(connection, at=START + DAY).credit_cents == 6000


def test_a_posting_leaves_what_was_corrected_between_its_look_and_its_lock_to_the_next(database: Database) -> None:
    other = stopped_report(HOUR, workspace_class="xlarge")
    with database.transaction() as connection:
        record(connection, WRONG, other)
        connection.execute(text(GATE))
    posted = []

    def post() -> None:
        with database.transaction() as connection:
            hold_prices(connection)
            connection.execute(text("SET LOCAL search_path = gate, public"))
            posted.append(post_stopped(connection, at=START + DAY, limit=100))

    with database.transaction() as gate:
        gate.execute(text("SELECT pg_advisory_xact_lock(7)"))
        posting = threading.Thread(target=post)
        posting.start()
        wait_until_blocked(database)
        correct(database)
    posting.join(timeout=30)
    assert posted == [Posted(entries=1, credit_cents=6000)]
    with database.transaction() as connection:
        assert post_batch(connection, at=START + DAY) == Posted(entries=1, credit_cents=6000)
        assert get_balance(connection, team(), at=START + DAY) == 12_000
        assert verify(connection, at=START + 2 * DAY).clean


def test_sessions_without_a_price_hold_up_nobody(connection: Connection) -> None:
    unpriced = [stopped_report(HOUR, started_at=START, workspace_class="small") for _ in range(3)]
    record(connection, *unpriced, stopped_report(2 * HOUR, workspace_class="xlarge"))
    connection.execute(text("ALTER TABLE price_version DISABLE TRIGGER USER"))
    connection.execute(text("UPDATE price_version SET effective_from = '2027-01-01' WHERE workspace_class = 'small'"))
    assert post_stopped(connection, at=START + DAY, limit=2) == Posted(entries=1, credit_cents=12_000)
    assert post_stopped(connection, at=START + DAY, limit=2).entries == 0
    assert connection.execute(text("SELECT count(*) FROM open_session")).scalar_one() == len(unpriced)


def test_facts_that_change_no_bill_leave_a_posted_session_closed(database: Database) -> None:
    with database.transaction() as connection:
        record(connection, WRONG)
        post_batch(connection, at=START + DAY)
        connection.execute(text("UPDATE workspace_instance SET recorded_at = now(), workspace_id = 'renamed'"))
        assert connection.execute(text("SELECT count(*) FROM open_session")).scalar_one() == 0
        connection.execute(text("UPDATE workspace_instance SET stopped_at = stopped_at + interval '1 min'"))
        assert connection.execute(text("SELECT revision FROM open_session")).scalar_one() == 2
        posted = post_batch(connection, at=START + DAY + timedelta(minutes=1))
        assert (posted.entries, posted.credit_cents) == (1, 100)

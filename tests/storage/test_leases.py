"""Leases and waits set by a clock that was wrong and has been corrected since."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from usage_tasks.domain.errors import InvariantError
from usage_tasks.storage.leases import LEASE_MAX, WAIT_MAX, bounded, is_due, is_free
from usage_tasks.storage.operations import outbox
from usage_tasks.storage.rows import fetch_one

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def answer(connection: Connection, condition: str, ends_in: timedelta | None) -> Any:
    row = """
        FROM (SELECT clock_timestamp() + CAST(:ends AS interval) AS claimed_until,
                     clock_timestamp() + CAST(:ends AS interval) AS next_attempt_at) AS row
    """
    return fetch_one(connection, f"SELECT {condition} AS answer {row}", ends=ends_in).answer


@pytest.mark.parametrize(
    ("ends_in", "answered"),
    [
        (None, True),
        (-SECOND, True),
        (MINUTE, False),
        (LEASE_MAX - MINUTE, False),
        (LEASE_MAX + MINUTE, True),
        (timedelta(days=62), True),
    ],
)
def test_a_row_is_free_when_its_lease_is_over_or_cannot_be_one(
    connection: Connection, ends_in: timedelta | None, answered: object
) -> None:
    assert answer(connection, is_free(), ends_in) is answered


@pytest.mark.parametrize(
    ("ends_in", "answered"), [(-SECOND, True), (MINUTE, False), (WAIT_MAX - MINUTE, False), (timedelta(days=62), True)]
)
def test_a_row_is_due_when_its_wait_is_over_or_cannot_be_one(
    connection: Connection, ends_in: timedelta, answered: object
) -> None:
    assert answer(connection, is_due(), ends_in) is answered


def test_no_lease_is_longer_than_what_is_believed() -> None:
    assert bounded(LEASE_MAX) == LEASE_MAX
    with pytest.raises(InvariantError, match="at most 1:00:00"):
        bounded(LEASE_MAX + SECOND)


@pytest.mark.holds("clocks.set-back")
def test_an_announcement_that_was_leased_an_hour_ahead_is_sent(connection: Connection) -> None:
    connection.execute(text("INSERT INTO outbox (key, task, payload) VALUES ('k', 'server.x', '{}')"))
    assert len(outbox.claim_announcements(connection, limit=10, lease=MINUTE)) == 1
    assert outbox.claim_announcements(connection, limit=10, lease=MINUTE) == []
    connection.execute(text("UPDATE outbox SET claimed_until = claimed_until + interval '1 hour'"))
    assert len(outbox.claim_announcements(connection, limit=10, lease=MINUTE)) == 1

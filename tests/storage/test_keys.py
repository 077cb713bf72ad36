"""Natural keys as SQL against the domain's functions."""

from datetime import datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from tests.factories import START, make_id
from usage_tasks.domain.ledger import (
    FORGIVEN,
    INVOICED,
    KeyPrefix,
    burn_key,
    credit_note_keys,
    invoice_key,
    note_key,
    reset_key,
    reversal_keys,
    session_key,
    upgrade_key,
)
from usage_tasks.storage import keys
from usage_tasks.storage.rows import fetch_one

SESSION, OTHER = make_id("session"), make_id("other")
NOTE = credit_note_keys("in_1", "cn_1")
KEYS = [
    session_key(SESSION, 1),
    session_key(SESSION, 22),
    session_key(OTHER, 1),
    invoice_key("in_1"),
    *NOTE,
    *reversal_keys("void", "in_1"),
    reset_key(START),
    upgrade_key(2),
    note_key("in_1"),
    burn_key(1, START),
    burn_key(11, START),
]


def value(connection: Connection, expression: str, **parameters: object) -> object:
    return fetch_one(connection, f"SELECT {expression} AS value", **parameters).value


def matching(connection: Connection, condition: str, **parameters: object) -> list[str]:
    """List the keys that fulfil a condition on `key`, compared by bytes as the ledger's are."""
    statement = f"""
        SELECT ARRAY(
            SELECT key FROM (SELECT t.key COLLATE "C" AS key, n FROM unnest(CAST(:keys AS text[]))
                WITH ORDINALITY AS t(key, n)) AS named
            WHERE {condition} ORDER BY n
        ) AS found
    """  # noqa: S608 - of this test
    return list(fetch_one(connection, statement, keys=KEYS, **parameters).found)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    instance_id=st.uuids(),
    number=st.integers(1, 2**31 - 1),
    instant=st.timedeltas(timedelta(0), timedelta(days=36_500)).map(lambda offset: START + offset),
)
def test_sql_writes_the_keys_that_the_domain_writes(
    connection: Connection, instance_id: UUID, number: int, instant: datetime
) -> None:
    session = keys.session_key("CAST(:instance AS text)", "CAST(:number AS int)")
    assert value(connection, session, instance=str(instance_id), number=number) == session_key(instance_id, number)
    assert value(connection, keys.upgrade_key("CAST(:n AS int)"), n=number) == upgrade_key(number)
    assert value(connection, keys.invoice_key("CAST(:id AS text)"), id=f"in_{number}") == invoice_key(f"in_{number}")
    for at in (instant, instant.replace(microsecond=0)):
        assert value(connection, keys.reset_key("CAST(:at AS timestamptz)"), at=at) == reset_key(at)


def test_a_range_has_the_keys_of_one_session_or_one_grant(connection: Connection) -> None:
    session = keys.is_of_session("key", "CAST(:instance AS text)")
    assert matching(connection, session, instance=str(SESSION)) == [session_key(SESSION, 1), session_key(SESSION, 22)]
    grant = keys.is_of_grant("key", "CAST(:number AS int)")
    assert matching(connection, grant, number=1) == [burn_key(1, START)]
    assert matching(connection, keys.is_of_any_grant("key")) == [burn_key(1, START), burn_key(11, START)]


@pytest.mark.parametrize("prefix", KeyPrefix)
def test_a_prefix_has_the_keys_that_begin_with_it(connection: Connection, prefix: KeyPrefix) -> None:
    found = matching(connection, keys.begins_with("key", prefix))
    assert found == [key for key in KEYS if key.startswith(prefix)]
    assert found


def test_each_side_of_a_credit_note_is_known_by_its_key(connection: Connection) -> None:
    assert matching(connection, keys.is_of_credit_note("key", INVOICED)) == [NOTE[0]]
    assert matching(connection, keys.is_of_credit_note("key", FORGIVEN)) == [NOTE[1]]
    assert matching(connection, keys.is_credited("key")) == [*NOTE]


def test_the_parts_of_a_key_are_read_from_it(connection: Connection) -> None:
    assert value(connection, keys.revision_of(":key"), key=session_key(SESSION, 22)) == "22"
    assert value(connection, keys.grant_number_of(":key"), key=burn_key(11, START)) == "11"
    of_invoice = [invoice_key("in_1"), *NOTE, *reversal_keys("void", "in_1")]
    assert {value(connection, keys.invoice_id_of(":key"), key=key) for key in of_invoice} == {"in_1"}

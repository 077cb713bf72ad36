from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import Connection, exc, text

from tests.factories import DAY, HOUR, START, SYSTEM, team, used
from usage_tasks.domain.errors import InvalidInputError, InvariantError
from usage_tasks.domain.ledger import USAGE_KINDS, Contra, EntryKind, kinds_of
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.entries import Entry, append_entries, has_entry_since
from usage_tasks.storage.operations.audit import append_audit
from usage_tasks.storage.pricing.prices import list_price_keys, publish_prices

CHANGES = {
    "ledger_entry": "UPDATE ledger_entry SET credit_cents = 0",
    "audit": "UPDATE audit SET actor = 'service:nobody'",
    "price_version": "UPDATE price_version SET credits_per_minute = 0",
}
STATEMENTS = [
    statement
    for table, update in CHANGES.items()
    for statement in (update, f"{update} WHERE false", f"DELETE FROM {table}", f"TRUNCATE {table}")  # noqa: S608 - names above
]


def entry(key: str = "invoice:in_1", kind: EntryKind = EntryKind.INVOICE, credit_cents: int = -100) -> Entry:
    return Entry(
        attribution_id=team(),
        key=key,
        kind=kind,
        credit_cents=credit_cents,
        effective_at=START,
        description="an entry",
    )


@pytest.mark.holds("usage.corrected", "lesson.stale-overwrite")
def test_what_is_booked_is_never_changed_or_removed(database: Database, subtests: pytest.Subtests) -> None:
    with database.transaction() as connection:
        used(connection, team(), 100, at=START + HOUR)
        append_audit(connection, at=START, actor=SYSTEM, action="test", attribution_id=team(), details={})
    for statement in STATEMENTS:
        with (
            subtests.test(statement),
            pytest.raises(InvariantError, match="is refused"),
            database.transaction() as connection,
        ):
            connection.execute(text(statement))


@pytest.mark.holds("lesson.silent-conflict")
def test_an_entry_is_appended_once_however_often_it_is_sent(connection: Connection) -> None:
    assert append_entries(connection, [entry()]) == 1
    assert append_entries(connection, [entry(), replace(entry(), credit_cents=-999)]) == 0
    carried = connection.execute(text("SELECT invoiced_cents, carried_cents FROM account_balance")).one()
    assert tuple(carried) == (100, -100)


def test_one_key_may_stand_on_two_accounts(connection: Connection) -> None:
    assert append_entries(connection, [entry(), replace(entry(), attribution_id=team("other"))]) == 2


def test_no_entries_are_no_error(connection: Connection) -> None:
    assert append_entries(connection, []) == 0


def test_the_balance_row_holds_each_kind_on_its_contra_account(connection: Connection) -> None:
    used(connection, team(), 10_000, at=START + HOUR)
    settling = [kind for kind in EntryKind if kind not in USAGE_KINDS]
    amounts = {kind: 1 << place for place, kind in enumerate(settling)}
    append_entries(connection, [entry(kind.value, kind, -cents) for kind, cents in amounts.items()])
    columns = ", ".join(f"{contra}_cents" for contra in Contra)
    held = connection.execute(text(f"SELECT {columns}, carried_cents FROM account_balance")).one()  # noqa: S608 - names above
    expected = {contra: sum(amounts.get(kind, 0) for kind in kinds_of(contra)) for contra in Contra}
    expected[Contra.USED] = 10_000
    assert held._mapping == {f"{contra}_cents": cents for contra, cents in expected.items()} | {
        "carried_cents": 10_000 - sum(amounts.values())
    }


def test_an_unknown_kind_of_entry_is_refused(connection: Connection) -> None:
    with pytest.raises(exc.IntegrityError, match="ledger_entry_kind_check"):
        append_entries(connection, [replace(entry(), kind="gift")])  # type: ignore[arg-type]  # what the test is about


def test_a_session_entry_names_its_session(connection: Connection) -> None:
    with pytest.raises(exc.IntegrityError, match="ledger_entry_instance_id_check"):
        append_entries(connection, [entry(kind=EntryKind.SESSION)])


def test_an_entry_counts_as_since_an_instant_only_after_it(connection: Connection) -> None:
    append_entries(connection, [entry()])
    just_before = START - timedelta(microseconds=1)
    assert has_entry_since(connection, team(), EntryKind.INVOICE, since=just_before)
    assert not has_entry_since(connection, team(), EntryKind.INVOICE, since=START)
    assert not has_entry_since(connection, team(), EntryKind.UPGRADE, since=just_before)
    assert not has_entry_since(connection, team("other"), EntryKind.INVOICE, since=just_before)


@pytest.mark.holds("numbers.past-price", "lesson.repricing")
def test_a_price_is_not_published_into_the_past(connection: Connection) -> None:
    publish_prices(connection, {"small": Decimal("0.3")}, at=START + DAY, actor=SYSTEM)
    with pytest.raises(
        InvalidInputError, match=r"`at`: must be later than the latest price of small.* \(got '2026-01-01T12:00:00"
    ):
        publish_prices(connection, {"small": Decimal("0.4")}, at=START + DAY / 2, actor=SYSTEM)


def test_a_price_is_published_once_and_a_new_one_from_its_instant_on(connection: Connection) -> None:
    price = {"tiny": Decimal("0.01")}
    assert publish_prices(connection, price, at=START, actor=SYSTEM) == 1
    assert publish_prices(connection, price, at=START + DAY, actor=SYSTEM) == 0
    assert publish_prices(connection, {"tiny": Decimal("0.02")}, at=START + DAY, actor=SYSTEM) == 1
    assert "tiny" in list_price_keys(connection)
    periods = "SELECT effective_from, effective_until FROM price_period WHERE workspace_class = 'tiny' ORDER BY 1"
    first, second = connection.execute(text(periods)).all()
    assert first.effective_from.year == 1970
    assert first.effective_until == second.effective_from == START + DAY
    assert second.effective_until is None

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START, call, make_id, team, used
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.reset import reset_due
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.tasks.task import ArgumentsError
from usage_tasks.tasks.usage import accounts, credit

NOTE: dict[str, Any] = {
    "attribution_id": team(),
    "actor": "service:tests",
    "amount": "300",
    "description": "For the outage",
    "idempotency_key": "ticket-1",
    "at": START.isoformat(),
}
AMOUNT = "`amount`: must be credits as decimal text such as 12.50, not 0, "
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"amount": "0"}, AMOUNT),
    ({"amount": "0.0049"}, AMOUNT),
    ({"amount": "-0.001"}, AMOUNT),
    ({"amount": "1e3"}, AMOUNT),
    ({"amount": "NaN"}, AMOUNT),
    ({"amount": "Infinity"}, AMOUNT),
    ({"amount": ""}, AMOUNT),
    ({"amount": " 1"}, AMOUNT),
    ({"amount": "1\n"}, AMOUNT),
    ({"amount": "٣"}, AMOUNT),
    ({"amount": "1_000"}, AMOUNT),
    ({"amount": 300}, AMOUNT),
    ({"amount": 0.5}, AMOUNT),
    ({"amount": "1000000000000.01"}, AMOUNT),
    ({"amount": "9" * 14}, AMOUNT),
    ({"user_id": "nobody "}, "`user_id`: must be a UUID"),
    ({"user_id": ""}, "`user_id`: must be a UUID"),
    ({"description": ""}, "`description`: must be at least 1 character (got text of "),
    ({"description": " \t "}, "`description`: must be at least 1 character (got text of "),
    ({"description": "a\nb"}, "`description`: must be printable text"),
    ({"idempotency_key": ""}, "`idempotency_key`: must be at least 1 character (got text of 0 characters)"),
    ({"attribution_id": "team:"}, "`attribution_id`: must be team:<id>"),
    ({"actor": "nobody"}, "`actor`: must be user:<id>"),
]


def add(**changes: Any) -> Any:
    return call(credit.add_credit_note, **(NOTE | changes))


def notes(rt: Runtime) -> list[tuple[object, ...]]:
    statement = "SELECT key, credit_cents, description, user_id FROM ledger_entry WHERE kind = 'credit_note'"
    with rt.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(statement + " ORDER BY posted_at"))]


def balance(rt: Runtime, at: object = NOTE["at"]) -> int:
    return int(call(accounts.get_balance, attribution_id=team(), actor="service:tests", at=at)["balance_cents"])


@pytest.mark.holds("usage.credit-note")
@pytest.mark.parametrize(
    ("amount", "cents"),
    [("300", -30_000), ("-300", 30_000), ("0.005", -1), ("1.4999", -150), ("1000000000000", -(10**14))],
)
def test_a_credit_note_takes_its_amount_off_the_balance(rt: Runtime, amount: str, cents: int) -> None:
    assert add(amount=amount)["credit_cents"] == cents
    assert balance(rt) == cents
    assert balance(rt, (START - timedelta(seconds=1)).isoformat()) == 0


@pytest.mark.holds("usage.credit-note")
def test_bad_arguments_are_refused_by_name_and_nothing_is_booked(rt: Runtime, subtests: pytest.Subtests) -> None:
    for changes, told in REFUSED:
        with subtests.test(str(changes)):
            with pytest.raises(ArgumentsError) as refused:
                add(**changes)
            assert str(refused.value).startswith(told)
    assert notes(rt) == []


@pytest.mark.holds("usage.credit-note")
def test_the_same_key_twice_is_one_entry_whenever_it_comes(rt: Runtime) -> None:
    first = add()
    assert add(at=(START + DAY).isoformat()) == first
    assert add(amount="300.00") == first
    assert notes(rt) == [("note:ticket-1", -30_000, "For the outage", None)]
    with rt.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit")).scalar_one() == 1


@pytest.mark.parametrize(
    "changes", [{"amount": "301"}, {"description": "Another"}, {"user_id": str(make_id("owner"))}], ids=str
)
def test_the_same_key_with_another_content_is_refused(rt: Runtime, changes: dict[str, Any]) -> None:
    add()
    with pytest.raises(
        InvalidInputError, match=r"`idempotency_key`: must be a new key: .* 30000 cents.* \(got 'ticket-1'\)"
    ):
        add(**changes)
    assert len(notes(rt)) == 1


def test_one_key_on_two_accounts_is_two_notes(rt: Runtime) -> None:
    add()
    add(attribution_id=team("other"))
    assert len(notes(rt)) == 2


def test_a_note_is_audited_and_says_for_whom(rt: Runtime) -> None:
    add(user_id=str(make_id("owner")).upper())
    assert notes(rt) == [("note:ticket-1", -30_000, "For the outage", make_id("owner"))]
    with rt.transaction() as connection:
        row = connection.execute(text("SELECT actor, action, attribution_id, at, details FROM audit")).one()
    details = {"key": "note:ticket-1", "credit_cents": -30_000, "user_id": str(make_id("owner"))}
    assert tuple(row) == ("service:tests", "credit_note.add", team(), START, details)


@pytest.mark.holds("usage.credit-note")
def test_many_at_once_under_one_key_are_one_note(rt: Runtime) -> None:
    workers = 4  # the pool has five connections
    ready = Barrier(workers)

    def give() -> Any:
        ready.wait()
        return add()

    with ThreadPoolExecutor(workers) as pool:
        answers = [each.result() for each in [pool.submit(give) for _ in range(workers)]]
    assert all(answer == answers[0] for answer in answers)
    assert balance(rt) == -30_000
    assert len(notes(rt)) == 1


def test_a_note_is_forgiven_in_the_identity_and_lessens_the_reset(rt: Runtime) -> None:
    add(amount="4")
    with rt.transaction() as connection:
        used(connection, team(), 1000, at=START + HOUR)
        assert reset_due(connection, at=add_months(START, 1)).cycles == 1
        columns = "used_cents, invoiced_cents, covered_cents, forgiven_cents, carried_cents"
        held = connection.execute(text(f"SELECT {columns} FROM account_balance")).one()  # noqa: S608 - names above
        assert tuple(held) == (1000, 0, 600, 400, 0)
        assert verify(connection, at=add_months(START, 1)).clean


def test_a_note_that_leaves_a_credit_is_not_reset(connection: Connection, rt: Runtime) -> None:
    add(amount="15")
    used(connection, team(), 1000, at=START + HOUR)
    reset_due(connection, at=add_months(START, 1))
    assert get_balance(connection, team(), at=add_months(START, 1)) == -500

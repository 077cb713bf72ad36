from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from tests.factories import DAY, START, call, record, team, used_report
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.task import ArgumentsError
from usage_tasks.tasks.usage import accounts, credit, ledger

GRANT: dict[str, Any] = {
    "attribution_id": team(),
    "actor": "service:tests",
    "amount": "10",
    "description": "Welcome",
    "idempotency_key": "welcome",
    "expires_at": (START + 10 * DAY).isoformat(),
    "at": START.isoformat(),
}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"amount": "0"}, "`amount`: must be credits"),
    ({"amount": 10}, "`amount`: must be credits"),
    ({"description": "  "}, "`description`: must be at least 1 character"),
    ({"priority": "1"}, "`priority`: must be a whole number"),
    ({"rollover_cap": "x"}, "`rollover_cap`: must be credits"),
    ({"expires_at": "2026-02-01T00:00:00"}, "`expires_at`: must be an ISO 8601 text"),
]


def grant(**changes: Any) -> Any:
    return call(credit.grant_credits, **(GRANT | changes))


def listed(at: datetime) -> Any:
    return call(credit.list_grants, attribution_id=team(), actor="service:tests", at=at.isoformat())["grants"]


def test_a_grant_answers_its_terms_and_is_audited(rt: Runtime) -> None:
    assert grant(rollover_cap="0", priority=3) == {
        "number": 1,
        "idempotency_key": "welcome",
        "amount_cents": 1000,
        "priority": 3,
        "effective_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-11T00:00:00Z",
        "rollover_cap_cents": 0,
    }
    with rt.transaction() as connection:
        row = connection.execute(text("SELECT actor, action, attribution_id, details FROM audit")).one()
    details = {"number": 1, "key": "welcome", "amount_cents": 1000}
    assert tuple(row) == ("service:tests", "grant.add", team(), details)


@pytest.mark.holds("grants.same-key")
def test_the_same_key_is_one_grant_even_after_it_expired(rt: Runtime) -> None:
    first = grant()
    assert grant(at=(START + 20 * DAY).isoformat()) == first
    assert grant(effective_at=START.isoformat()) == first
    assert len(listed(START)) == 1


@pytest.mark.holds("grants.same-key")
@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "11"},
        {"priority": 1},
        {"rollover_cap": "1"},
        {"expires_at": None},
        {"description": "Bye"},
        {"effective_at": (START + DAY).isoformat()},
    ],
    ids=str,
)
def test_the_same_key_with_other_terms_is_refused(rt: Runtime, changes: dict[str, Any]) -> None:
    grant()
    with pytest.raises(
        InvalidInputError, match=r"`idempotency_key`: must be a new key: .* grant 1 of 1000 cents \(got 'welcome'\)"
    ):
        grant(**changes)
    assert len(listed(START)) == 1


def test_bad_arguments_are_refused_by_name(rt: Runtime, subtests: pytest.Subtests) -> None:
    for changes, told in REFUSED:
        with subtests.test(str(changes)):
            with pytest.raises(ArgumentsError) as refused:
                grant(**changes)
            assert str(refused.value).startswith(told)
    for wrong in ({"amount": "-1"}, {"priority": 101}, {"rollover_cap": "-1"}, {"expires_at": START.isoformat()}):
        with subtests.test(str(wrong)), pytest.raises(InvalidInputError, match=next(iter(wrong))):
            grant(**wrong)
    assert listed(START) == []


def test_the_list_says_what_is_left_pending_paid_and_lapsed_at_each_instant(rt: Runtime) -> None:
    grant()
    with rt.transaction() as connection:
        record(connection, used_report(team(), 400, at=START + DAY))
    before, after = START + 5 * DAY, START + 10 * DAY
    for _ in range(2):
        assert [(each["remaining_cents"], each["pending_cents"], each["movements"]) for each in listed(before)] == [
            (1000, 400, [])
        ]
        (held,) = listed(after)
        assert (held["remaining_cents"], held["pending_cents"]) == (0, 0)
        cycle = "2026-01-01T00:00:00Z"
        at = "2026-01-11T00:00:00Z"
        assert held["movements"] == [
            {"at": at, "what": "burn", "credit_cents": 400, "cycle_started_at": cycle},
            {"at": at, "what": "expiry", "credit_cents": 600, "cycle_started_at": None},
        ]


def test_the_ledger_job_settles_what_expired_before_it_judges_limits(rt: Runtime) -> None:
    grant(amount="550")
    with rt.transaction() as connection:
        record(connection, used_report(team(), 50_000, at=START + DAY))  # the limit is 500 credits
    at = (START + 12 * DAY).isoformat()
    assert call(accounts.get_balance, attribution_id=team(), actor="service:tests", at=at)["balance_cents"] == 0
    done = call(ledger.reconcile_usage, at=at)
    assert (done["limits_reached"], done["expiries"]) == (0, 0)  # the read has settled it


def test_the_ledger_job_settles_by_itself_and_once(rt: Runtime) -> None:
    grant(amount="550")
    with rt.transaction() as connection:
        record(connection, used_report(team(), 50_000, at=START + DAY))
    at = (START + 12 * DAY).isoformat()
    runs = [call(ledger.reconcile_usage, at=at) for _ in range(2)]
    assert [(run["expiries"], run["limits_reached"]) for run in runs] == [(1, 0), (0, 0)]

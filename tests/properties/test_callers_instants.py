"""Callers ask for any instant, of the far past and of the future: none of their effects takes effect later than now.

Each step is a task as it comes over the wire, by a user or by a service, at an instant that is drawn, on accounts whose
cycles and grants end near now. After any requests the ledger's future is empty, verify is clean, and an account about
which only users asked was not opened in the past. At the end the sessions stop, and cost their runtime.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.factories import DAY, HOUR, LIMITS, SYSTEM, account_of, call, give, session_row, user
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.instants import AHEAD_MAX
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.cost_center import get_cost_center
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.rows import fetch
from usage_tasks.tasks.usage import accounts, credit, ledger, limits, sessions

SECOND = timedelta(seconds=1)
_names = itertools.count(1)
OFFSETS = st.one_of(
    st.timedeltas(-AHEAD_MAX, 2 * AHEAD_MAX),
    st.timedeltas(-400 * DAY, 62 * DAY),
    st.timedeltas(timedelta(days=-20_000), timedelta(days=20_000)),
)
"""The distance from now of a caller's instant: near it, some months, or a lifetime away."""

Ask = Callable[[AttributionId, str, datetime], Any]


def of_account(task: Any, **arguments: Any) -> Ask:
    return lambda account, actor, at: call(task, attribution_id=account, actor=actor, at=at.isoformat(), **arguments)


def snapshot(account: AttributionId, actor: str, at: datetime) -> Any:
    return call(sessions.report_running, source="elsewhere", instances=[], actor=SYSTEM, at=at.isoformat())


BY_ANYONE: dict[str, Ask] = {
    "balance": of_account(accounts.get_balance),
    "cost center": of_account(accounts.get_cost_center),
    "entitlement": of_account(limits.check_entitlement),
    "grants": of_account(credit.list_grants),
    "thresholds": of_account(limits.set_limit_thresholds, thresholds=[50]),
    "snapshot": snapshot,
    "reset": lambda _account, _actor, at: call(ledger.reset_usage, at=at.isoformat()),
    "reconcile": lambda _account, _actor, at: call(ledger.reconcile_usage, at=at.isoformat()),
}
STEPS = st.lists(st.tuples(st.sampled_from(sorted(BY_ANYONE)), st.booleans(), OFFSETS), min_size=1, max_size=8)


def prepare(rt: Runtime, account: AttributionId, *, ends_in: timedelta) -> list[dict[str, Any]]:
    """Open an account whose cycle and grant end soon, and start two sessions; return their reports."""
    now = rt.now()
    with rt.transaction() as connection:
        opened_at = add_months(now + ends_in, -1)
        get_cost_center(connection, account_of(account), limits=LIMITS, at=opened_at, actor=SYSTEM)
        give(connection, 1000, at=now - DAY, attribution_id=account, expires_at=now + ends_in / 2)
    rows = [session_row(attribution_id=account, workspace_class="xlarge", started_at=now - HOUR) for _ in range(2)]
    call(sessions.record_instances, instances=rows, actor=SYSTEM)
    return rows


def ask(name: str, account: AttributionId, actor: str, at: datetime) -> None:
    """Ask for an instant. A forbidden one is refused without an effect."""
    with suppress(InvalidInputError):
        BY_ANYONE[name](account, actor, at)


def check_nothing_is_of_the_future(rt: Runtime) -> None:
    at = rt.now()
    with rt.transaction() as connection:
        future = fetch(
            connection,
            "SELECT attribution_id, effective_at FROM ledger_entry WHERE effective_at > clock_timestamp() UNION ALL "
            "SELECT attribution_id, cycle_started_at FROM cost_center WHERE cycle_started_at > clock_timestamp()",
        )
        assert future == []
        verdict = verify(connection, at=at, grace=timedelta(minutes=10))
    assert verdict.clean, verdict.describe()


def used_cents(rt: Runtime, account: AttributionId, rows: Sequence[dict[str, Any]]) -> int:
    """Stop an account's sessions after an hour, post them, and return the account's usage."""
    stopped = [row | {"stopped_at": (datetime.fromisoformat(row["started_at"]) + HOUR).isoformat()} for row in rows]
    call(sessions.record_instances, instances=stopped, actor=SYSTEM)
    call(ledger.reconcile_usage)
    with rt.transaction() as connection:
        kinds = "('session', 'adjustment')"
        (row,) = fetch(
            connection,
            f"SELECT COALESCE(sum(credit_cents), 0) AS cents FROM ledger_entry WHERE attribution_id = :account "  # noqa: S608 - constants
            f"AND kind IN {kinds}",
            account=account,
        )
    return int(row.cents)


@pytest.mark.timeout(300)
@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, ends_in=st.timedeltas(SECOND, AHEAD_MAX))
def test_nothing_takes_effect_later_than_now(
    real_rt: Runtime, steps: list[tuple[str, bool, timedelta]], ends_in: timedelta
) -> None:
    name = next(_names)
    account, unknown = user(f"asked {name}"), user(f"unknown {name}")
    rows = prepare(real_rt, account, ends_in=ends_in)
    before = real_rt.now()
    for step, by_user, offset in steps:
        at = real_rt.now() + offset
        ask(step, account, account if by_user else SYSTEM, at)
        if step not in {"reset", "reconcile", "snapshot"}:
            ask(step, unknown, unknown, at)
        check_nothing_is_of_the_future(real_rt)
    with real_rt.transaction() as connection:
        opened = fetch(
            connection,
            "SELECT min(cycle_started_at) AS at FROM cost_center WHERE attribution_id = :account",
            account=unknown,
        )
    assert all(row.at is None or row.at >= before for row in opened)
    assert used_cents(real_rt, account, rows) == 2 * 6000

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.benchmarks.population import NOW, add_years
from tests.examples import examples
from tests.factories import (
    DAY,
    HOUR,
    LIMITS,
    START,
    SYSTEM,
    account_of,
    make_id,
    record,
    segment,
    session_report,
    stopped_report,
    team,
    used,
)
from tests.ledger.test_cost_center import STRIPE, get, put
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.exhaustion import ceil_second
from usage_tasks.domain.limits import EntitlementReason, HardLimitGrace, LimitPolicy
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.ledger.post_usage import announce_limits, post_batch
from usage_tasks.services.limits.entitlement import Entitlement, check_entitlement, set_thresholds
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.ledger.posting import post_stopped
from usage_tasks.storage.limits import account_standings
from usage_tasks.storage.pricing.prices import publish_prices

MINUTE: Final = timedelta(minutes=1)
SECOND: Final = timedelta(seconds=1)
STRICT: Final = LimitPolicy()
TENTH: Final = LimitPolicy(grace=HardLimitGrace(percent=10))
OK, WITHIN, HARD, *_ = EntitlementReason
BLOCKS_MAX: Final = 200
CLASSES: Final = ("small", "medium", "large", "xlarge")


def check(
    connection: Connection,
    account: AttributionId = team(),  # noqa: B008 - a constant
    *,
    at: datetime,
    policy: LimitPolicy = STRICT,
) -> Entitlement:
    return check_entitlement(
        connection, account_of(account), policy=policy, spending_limits=LIMITS, at=at, actor=SYSTEM
    )


def choose(connection: Connection, thresholds: list[int] | None, **options: Any) -> tuple[int, ...]:
    fields: dict[str, Any] = {"policy": STRICT, "spending_limits": LIMITS, "at": START, "actor": SYSTEM} | options
    return set_thresholds(connection, account_of(team()), thresholds=thresholds, **fields)


def test_an_unknown_account_is_opened_and_may_start(connection: Connection) -> None:
    assert check(connection, at=START) == Entitlement(
        may_start=True,
        reason=OK,
        balance_cents=0,  # type: ignore[arg-type]  # a literal
        remaining_cents=50_000,
        spending_limit=500,
        hard_limit_cents=50_000,
        exhausted_at=None,
    )
    assert get(connection, at=START + DAY).cycle.started_at == START


@pytest.mark.holds("limits.exhaustion", "lesson.stale-limits")
def test_what_runs_uses_up_the_limit_to_the_second(connection: Connection) -> None:
    record(connection, session_report(workspace_class="xlarge"))
    edge = START + 500 * MINUTE
    before = check(connection, at=edge - SECOND)
    assert (before.reason, before.may_start, before.remaining_cents) == (OK, True, 2)
    assert before.exhausted_at == edge
    at_limit = check(connection, at=edge)
    assert (at_limit.reason, at_limit.may_start, at_limit.remaining_cents) == (HARD, False, 0)
    assert at_limit.exhausted_at == edge


@pytest.mark.holds("limits.hard-limit")
def test_within_its_grace_an_account_may_start(connection: Connection) -> None:
    record(connection, session_report(workspace_class="xlarge"))
    seen = [check(connection, at=START + minutes * MINUTE, policy=TENTH) for minutes in (499, 500, 549, 550)]
    assert [each.reason for each in seen] == [OK, WITHIN, WITHIN, HARD]
    assert [each.may_start for each in seen] == [True, True, True, False]
    assert {each.hard_limit_cents for each in seen} == {55_000}


def test_a_due_reset_is_applied_first(connection: Connection) -> None:
    get(connection)
    used(connection, team(), 50_000, at=START + DAY)
    assert check(connection, at=START + DAY).reason is HARD
    renewed = check(connection, at=add_months(START, 1))
    assert (renewed.reason, renewed.balance_cents) == (OK, 0)


@pytest.mark.holds("limits.exhaustion")
def test_what_would_outlast_the_cycle_is_never_exhausted_in_it(connection: Connection) -> None:
    month = add_months(START, 1)
    report = session_report(workspace_class="xlarge", started_at=month - 500 * MINUTE)
    get(connection)
    record(connection, report, at=month - 500 * MINUTE)
    assert check(connection, at=month - HOUR).exhausted_at is None
    assert check(connection, at=month).exhausted_at == month + 500 * MINUTE


def test_a_paying_account_is_judged_the_same_way(connection: Connection) -> None:
    put(connection, STRIPE, 10)
    record(connection, session_report())
    seen = check(connection, at=START + HOUR)
    # A sixth of a cent a second: half of the last cent, which rounds up, is there three seconds early.
    assert (seen.reason, seen.remaining_cents, seen.exhausted_at) == (OK, 400, START + 100 * MINUTE - 3 * SECOND)
    assert check(connection, at=START + 100 * MINUTE).reason is HARD


def test_a_paying_accounts_course_does_not_end_with_its_cycle(connection: Connection) -> None:
    put(connection, STRIPE, 100_000)
    record(connection, session_report())
    assert check(connection, at=START + HOUR).exhausted_at == START + 1_000_000 * MINUTE - 3 * SECOND


@pytest.mark.holds("limits.exhaustion")
def test_a_future_price_is_reckoned_with(connection: Connection) -> None:
    record(connection, session_report(workspace_class="xlarge"))
    publish_prices(connection, {"xlarge": Decimal(4)}, at=START + 100 * MINUTE, actor=SYSTEM)
    assert check(connection, at=START + HOUR).exhausted_at == START + 200 * MINUTE


@pytest.mark.holds("limits.exhaustion")
def test_a_session_that_is_to_stop_first_uses_nothing_up(connection: Connection) -> None:
    get(connection)
    record(connection, session_report(workspace_class="xlarge", stopping_at=START + 499 * MINUTE))
    assert check(connection, at=START + HOUR).exhausted_at is None


@pytest.mark.holds("limits.exhaustion", "usage.timeline")
def test_a_change_of_class_that_is_known_is_reckoned_with(connection: Connection) -> None:
    get(connection)
    changes = [segment(START + 100 * MINUTE, "xlarge")]
    record(connection, session_report(workspace_class="large", segments=changes))
    # 50 of 500 credits in 100 minutes, then 1 a minute.
    assert check(connection, at=START + HOUR).exhausted_at == START + 550 * MINUTE


@st.composite
def reports(draw: st.DrawFn) -> SessionReport:
    offsets = st.one_of(st.integers(0, 100).map(lambda n: n * 7 * MINUTE), st.timedeltas(timedelta(0), 2 * DAY))
    number = draw(st.integers(0, 5))
    observed_at = START + draw(st.integers(0, 100)) * HOUR
    changes = draw(st.just({}) | st.dictionaries(offsets, st.sampled_from(CLASSES), max_size=3))
    return session_report(
        instance_id=make_id(number),
        workspace_class=CLASSES[number % len(CLASSES)],
        segments=tuple(segment(START + at, changes[at], observed_at=observed_at) for at in sorted(changes)),
        started_at=START + draw(offsets),
        stopping_at=draw(st.none() | offsets.map(lambda each: START + each)),
        stopped_at=draw(st.one_of(st.none(), st.none(), offsets.map(lambda each: START + each))),
        observed_at=observed_at,
    )


@pytest.mark.holds("limits.exhaustion")
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    running=st.lists(reports(), min_size=1, max_size=6),
    posted_at=st.none() | st.timedeltas(timedelta(0), 3 * DAY),
    again=st.lists(reports(), max_size=2),
    price=st.decimals(0, 5, places=4),
    changes_at=st.timedeltas(timedelta(0), 2 * DAY),
    at=st.one_of(st.integers(0, 48).map(lambda n: n * HOUR), st.timedeltas(timedelta(0), 2 * DAY)),
    limit=st.integers(0, 600),
)
def test_the_live_balance_is_at_the_limit_in_that_second_and_below_it_before(  # noqa: PLR0917 - drawn by name
    connection: Connection,
    running: list[SessionReport],
    posted_at: timedelta | None,
    again: list[SessionReport],
    price: Decimal,
    changes_at: timedelta,
    at: timedelta,
    limit: int,
) -> None:
    savepoint = connection.begin_nested()
    get(connection)
    put(connection, STRIPE, limit)
    publish_prices(connection, {"small": price}, at=START + changes_at, actor=SYSTEM)
    record(connection, *running)
    if posted_at is not None:
        post_batch(connection, at=START + posted_at)
    record(connection, *again)
    asked_at = START + at
    found = check(connection, at=asked_at).exhausted_at
    if any(each.started_at > asked_at for each in [*running, *again]):
        # It runs only later: it does not count, though it is in the later balance.
        assert found is None or get_balance(connection, team(), at=found) >= limit * 100
    elif found is None:
        assert get_balance(connection, team(), at=START + 3_000 * DAY) < limit * 100
    else:
        assert get_balance(connection, team(), at=found) >= limit * 100
        earlier = found - SECOND
        assert earlier < asked_at or get_balance(connection, team(), at=earlier) < limit * 100
        assert ceil_second(asked_at) <= found == ceil_second(found)
    savepoint.rollback()


def test_the_past_is_asked_as_it_would_have_gone_on(connection: Connection) -> None:
    record(connection, stopped_report(600 * MINUTE, workspace_class="xlarge"))
    post_batch(connection, at=START + DAY)
    assert check(connection, at=START + HOUR).exhausted_at == START + 500 * MINUTE


@pytest.mark.holds("limits.exhaustion")
@pytest.mark.parametrize("posted", [False, True])
def test_what_began_only_after_a_past_instant_does_not_run_at_it(connection: Connection, *, posted: bool) -> None:
    get(connection)
    for start in (HOUR, HOUR + SECOND):
        record(connection, stopped_report(600 * MINUTE, workspace_class="xlarge", started_at=START + start))
    if posted:
        post_batch(connection, at=START + DAY)
    assert check(connection, at=START + HOUR - SECOND).exhausted_at is None
    assert check(connection, at=START + HOUR).exhausted_at == START + HOUR + 500 * MINUTE
    assert check(connection, at=START + HOUR + SECOND).exhausted_at == START + HOUR + 250 * MINUTE + SECOND


def count_blocks(connection: Connection, account: AttributionId, *, at: datetime) -> int:
    """Return how many blocks the server reads to list the posted sessions that run at an instant."""
    explained = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {account_standings.ACCRUING}")
    plan = connection.execute(explained, {"account": account, "at": at}).scalar_one()[0]["Plan"]
    _, posted = plan["Plans"]  # the open ones are gone since this transaction posted them, and not vacuumed yet
    return int(posted["Shared Hit Blocks"] + posted["Shared Read Blocks"])


def test_what_runs_at_a_past_instant_is_found_without_the_sessions_after_it(connection: Connection) -> None:
    account = add_years(connection, "long", count=10_000, accounts=1, years=5)
    post_stopped(connection, at=NOW, limit=20_000)
    connection.execute(text("ANALYZE"))
    starts = connection.execute(
        text("SELECT started_at FROM workspace_instance ORDER BY started_at LIMIT 21")
    ).scalars()
    at = list(starts)[-1] + SECOND
    assert account_standings.list_accruals(connection, account, at=at) != []
    # The weeks that come later are looked at, their thousands of entries and sessions are not.
    assert count_blocks(connection, account, at=at) <= BLOCKS_MAX


def test_thresholds_of_an_account_are_its_own_and_audited(connection: Connection) -> None:
    get(connection)
    used(connection, team(), 30_000, at=START + HOUR)
    used(connection, team("other"), 30_000, at=START + HOUR)
    assert choose(connection, [25, 10]) == (10, 25)
    assert announce_limits(connection, at=START + DAY).thresholds == 2 + 1
    audited = connection.execute(text("SELECT actor, action, attribution_id, details FROM audit")).all()
    assert [tuple(row) for row in audited] == [
        (SYSTEM, "limit_thresholds.set", team(), {"thresholds": [None, [10, 25]]})
    ]


def test_thresholds_that_stand_already_change_nothing(connection: Connection) -> None:
    assert choose(connection, [10]) == choose(connection, [10, 10]) == (10,)
    assert connection.execute(text("SELECT count(*) FROM audit")).scalar_one() == 1


def test_without_thresholds_of_its_own_an_account_has_the_installations(connection: Connection) -> None:
    assert choose(connection, []) == ()
    assert choose(connection, None) == (50, 80, 100)
    assert choose(connection, None) == (50, 80, 100)
    details = connection.execute(text("SELECT details FROM audit ORDER BY audit_id")).scalars().all()
    assert details == [{"thresholds": [None, []]}, {"thresholds": [[], None]}]


def test_an_account_without_thresholds_hears_of_its_limit_only(connection: Connection) -> None:
    get(connection)
    choose(connection, [])
    used(connection, team(), 50_000, at=START + HOUR)
    told = announce_limits(connection, at=START + DAY, policy=TENTH)
    assert (told.thresholds, told.limits, told.hard_limits) == (0, 1, 0)


def test_refused_thresholds_open_no_account(connection: Connection) -> None:
    with pytest.raises(InvalidInputError, match="thresholds"):
        choose(connection, [0])
    assert connection.execute(text("SELECT count(*) FROM cost_center")).scalar_one() == 0

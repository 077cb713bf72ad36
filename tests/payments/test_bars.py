"""Whether an account may start a session while its payments fail or are disputed."""

from datetime import timedelta

import pytest

from tests.factories import DAY, LIMITS, SYSTEM, team, user
from tests.payments.test_dunning import ACCOUNT, FAILED, failing, sweep
from tests.payments.test_reflect_dispute import ANNA, bank, disputed, handle, own
from tests.stripe_world.bench import Bench
from usage_tasks.domain.accounts import AttributionId, parse_attribution
from usage_tasks.domain.limits import LimitPolicy
from usage_tasks.services.limits.entitlement import check_entitlement


def may_start(bench: Bench, account: AttributionId) -> tuple[bool, str]:
    with bench.transaction() as connection:
        answer = check_entitlement(
            connection,
            parse_attribution(account),
            policy=LimitPolicy(),
            spending_limits=LIMITS,
            at=bench.now(),
            actor=SYSTEM,
        )
    return answer.may_start, answer.reason


@pytest.mark.holds("limits.bar")
def test_a_suspended_account_may_not_start_until_it_is_paid(bench: Bench) -> None:
    invoice_id = failing(bench)
    sweep(bench, timedelta(days=19))
    assert may_start(bench, ACCOUNT) == (True, "ok")
    sweep(bench, timedelta(days=20))
    assert may_start(bench, ACCOUNT) == (False, "suspended")
    assert may_start(bench, team("another")) == (True, "ok")
    bench.world.decline(bench.world.customers()[0].id, declined=False)
    bench.world.collect(invoice_id)
    bench.handle_all(FAILED + 21 * DAY)
    assert may_start(bench, ACCOUNT) == (True, "ok")


@pytest.mark.holds("limits.bar")
def test_an_individual_may_not_start_while_a_dispute_stands(bench: Bench) -> None:
    account = user("anna")
    dispute = disputed(bench, account)
    assert may_start(bench, account) == (True, "ok")
    handle(bench, "charge.dispute.")
    assert may_start(bench, account) == (False, "blocked")
    bank(bench, "disputes/step", dispute=dispute, step="respond")
    bank(bench, "disputes/step", dispute=dispute, step="win")
    handle(bench, "charge.dispute.")
    assert may_start(bench, account) == (True, "ok")


@pytest.mark.holds("limits.bar")
def test_an_owner_who_is_blocked_for_a_team_may_not_start_but_the_team_may(bench: Bench) -> None:
    account = team("disputed")
    own(bench, account, [ANNA])
    disputed(bench, account)
    handle(bench, "charge.dispute.")
    assert may_start(bench, user("anna")) == (False, "blocked")
    assert may_start(bench, account) == (True, "ok")


@pytest.mark.holds("limits.bar")
def test_a_team_without_known_owners_may_not_start_while_a_dispute_stands(bench: Bench) -> None:
    account = team("unknown")
    disputed(bench, account)
    handle(bench, "charge.dispute.")
    assert may_start(bench, account) == (False, "blocked")


@pytest.mark.holds("limits.bar")
def test_after_a_dispute_was_lost_a_person_decides(bench: Bench) -> None:
    account = user("anna")
    dispute = disputed(bench, account)
    bank(bench, "disputes/step", dispute=dispute, step="lose")
    handle(bench, "charge.dispute.")
    assert may_start(bench, account) == (True, "ok")

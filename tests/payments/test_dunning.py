from datetime import timedelta

import pytest

from tests.factories import DAY, HOUR, team
from tests.stripe_world.bench import DUNNING, Bench, at_once
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.dunning import DunningPolicy
from usage_tasks.runtime import Runtime
from usage_tasks.services.payments.dunning import Dunned, advance_dunning
from usage_tasks.tasks.billing import invoices as tasks

ACCOUNT = team("one")
FAILED = add_months(BEGIN, 1) + GRACE


def failing(bench: Bench) -> str:
    """An account whose first invoice cannot be collected; return the invoice."""
    bench.world.decline(bench.pay(ACCOUNT))
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FAILED)
    bench.handle_all(FAILED)
    return str(bench.world.invoices()[-1].id)


def sweep(bench: Bench, after: timedelta, policy: DunningPolicy | None = DUNNING) -> Dunned:
    with bench.transaction() as connection:
        return advance_dunning(connection, at=FAILED + after, policy=policy)


def state(bench: Bench) -> list[str]:
    return [row.state for row in bench.rows("SELECT state FROM dunning")]


@pytest.mark.holds("stripe.dunning")
def test_each_step_of_a_failed_payment_is_told_once(bench: Bench) -> None:
    invoice_id = failing(bench)
    told = ["payment_failed"]
    steps = [
        (timedelta(days=3) - HOUR, "grace", []),
        (timedelta(days=3), "reminder", ["payment_reminder"]),
        (timedelta(days=9), "reminder", []),
        (timedelta(days=10), "reminder", ["payment_reminder"]),
        (timedelta(days=19), "reminder", ["payment_reminder"]),
        (timedelta(days=20), "suspended", ["suspend_account"]),
        (timedelta(days=60), "suspended", []),
    ]
    for after, expected, announced in steps:
        for _ in range(2):
            sweep(bench, after)
        told += announced
        assert (state(bench), bench.told(ACCOUNT)) == ([expected], told), after
    sweep(bench, DAY)  # a late sweep moves nothing back
    assert state(bench) == ["suspended"]
    bench.world.decline(bench.world.customers()[0].id, declined=False)
    bench.world.collect(invoice_id)
    bench.handle_all(FAILED + 61 * DAY)
    assert (state(bench), bench.told(ACCOUNT)) == ([], [*told, "resume_account"])
    assert bench.rows("SELECT count(*) FROM audit WHERE action = 'dunning.advance'")[0][0] == len(told) + 1


@pytest.mark.holds("clocks.event-claims")
@pytest.mark.parametrize("claimed", [-60 * DAY, 4000 * DAY])
def test_what_an_event_claims_of_a_failure_is_bounded_by_the_invoice_and_by_now(
    bench: Bench, claimed: timedelta
) -> None:
    bench.world.decline(bench.pay(ACCOUNT))
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FAILED)
    bench.receive(types="")
    claim = "UPDATE stripe_event SET created_at = :at WHERE type = 'invoice.payment_failed'"
    assert bench.execute(claim, at=FAILED + claimed) == 1
    bench.handle_stored(FAILED)
    stored = "SELECT finalized_at, failed_at FROM stripe_invoice WHERE failed_at IS NOT NULL"
    ((finalized, failed),) = bench.rows(stored)
    assert finalized <= failed <= FAILED
    assert (state(bench), bench.told(ACCOUNT)) == (["grace"], ["payment_failed"])


def test_sweeps_at_once_tell_once(bench: Bench) -> None:
    failing(bench)
    at_once(*[lambda: sweep(bench, 20 * DAY)] * 4)
    assert bench.told(ACCOUNT) == ["payment_failed", "suspend_account"]


def test_an_invoice_that_was_given_up_stays_unpaid_until_it_is_voided(bench: Bench) -> None:
    invoice_id = failing(bench)
    bench.world.v1.invoices.mark_uncollectible(invoice_id)
    bench.handle_all(FAILED)
    sweep(bench, 20 * DAY)
    assert state(bench) == ["suspended"]
    bench.world.v1.invoices.void_invoice(invoice_id)
    bench.handle_all(FAILED + 21 * DAY)
    assert (state(bench), bench.told(ACCOUNT)[-1]) == ([], "resume_account")


@pytest.mark.holds("stripe.dunning")
def test_without_a_policy_nobody_is_dunned_and_whoever_was_is_let_go(bench: Bench) -> None:
    failing(bench)
    sweep(bench, 20 * DAY)
    assert sweep(bench, 21 * DAY, None).resumed == 1
    assert (state(bench), sweep(bench, 22 * DAY, None).suspended) == ([], 0)
    assert sweep(bench, 23 * DAY).suspended == 1
    assert bench.told(ACCOUNT)[1:] == ["suspend_account", "resume_account", "suspend_account"]


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_task_takes_the_steps_that_are_due(bench: Bench, rt: Runtime, *, dry_run: bool) -> None:
    failing(bench)
    TestClock(rt.redis).advance(FAILED + 30 * DAY)
    counts = {"payments_failed": 0, "reminders": 0, "suspended": 1, "resumed": 0, "settled": 0}
    assert tasks.advance_dunning(dry_run=dry_run) == ({"dry_run": counts} if dry_run else counts)
    assert state(bench) == ["grace" if dry_run else "suspended"]

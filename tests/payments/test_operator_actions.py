from typing import Any

import pytest
from typer.testing import CliRunner

from tests.factories import DAY, HOUR, SYSTEM, team
from tests.stripe_world.bench import Bench, CrashError, Wrapped, at_once, crash
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError, PermanentError, RetryableError, SpentKeyError
from usage_tasks.domain.payments import StripeInvoiceId
from usage_tasks.runtime import Runtime
from usage_tasks.services.payments.operator_actions import LEASE, cancel_subscription, finalize_invoice, resume_open
from usage_tasks.storage.payments import operator_actions
from usage_tasks.storage.payments.operator_actions import Action, list_open
from usage_tasks.tasks.billing import invoices as tasks

ACCOUNT = team("one")
PERIOD_END = add_months(BEGIN, 1)
ENDED = BEGIN + 10 * DAY


def drafted(bench: Bench) -> StripeInvoiceId:
    """An account whose first month is a draft, of which Stripe knows 9 of 12 credits; return the invoice."""
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 9, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.use(ACCOUNT, 3, until=PERIOD_END - HOUR)
    bench.world.advance(PERIOD_END)
    return StripeInvoiceId(bench.world.invoices()[-1].id)


def finalize(bench: Bench, invoice_id: StripeInvoiceId, stripe: Any = None, **options: Any) -> Any:
    return finalize_invoice(bench.context(PERIOD_END, stripe, **options), ACCOUNT, invoice_id, actor=SYSTEM)


def cancel(bench: Bench, stripe: Any = None, **options: Any) -> Any:
    return cancel_subscription(bench.context(ENDED, stripe, **options), ACCOUNT, actor=SYSTEM)


def using(bench: Bench) -> str:
    """A paying account with 12 unreported credits, ten days into its first period; return its customer."""
    customer = bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 12, until=ENDED - HOUR)
    bench.world.advance(ENDED)
    return customer


def free_leases(bench: Bench) -> None:
    bench.execute("UPDATE stripe_action SET claimed_until = NULL")
    bench.execute("UPDATE meter_report SET claimed_until = NULL WHERE state = 'pending'")


def actions(bench: Bench) -> list[tuple[int, bool, str | None]]:
    found = bench.rows("SELECT number, settled_at IS NOT NULL AS settled, error FROM stripe_action ORDER BY number")
    return [tuple(row) for row in found]


@pytest.mark.holds("stripe.finalize-draft")
def test_a_draft_is_finalized_now_with_its_closing_quantity(bench: Bench) -> None:
    invoice_id = drafted(bench)
    assert finalize(bench, invoice_id).outcome == "invoice booked"
    assert bench.moves(ACCOUNT) == [("invoice", -1200)]
    assert actions(bench) == [(1, True, None)]
    assert finalize(bench, invoice_id).entries == 0
    assert len(actions(bench)) == 1
    assert [row.actor for row in bench.rows("SELECT actor FROM audit WHERE action = 'stripe.finalize_invoice'")] == [
        SYSTEM
    ]


@pytest.mark.holds("stripe.finalize-draft")
def test_a_draft_waits_until_its_quantity_is_in_stripe(bench: Bench) -> None:
    class Busy(Wrapped):
        def send_meter_event(self, _event: Any) -> None:
            raise RetryableError("busy")

    invoice_id = drafted(bench)
    with pytest.raises(RetryableError, match="not in Stripe yet"):
        finalize(bench, invoice_id, Busy(bench.stripe))
    assert bench.world.invoices()[-1].status == "draft"
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp() WHERE state = 'pending'")
    assert finalize(bench, invoice_id).entries == 1


def test_an_invoice_of_somebody_else_is_refused(bench: Bench) -> None:
    invoice_id = drafted(bench)
    with pytest.raises(InvalidInputError, match="stripe_invoice_id"):
        finalize_invoice(bench.context(PERIOD_END), team("another"), invoice_id, actor=SYSTEM)
    assert actions(bench) == []


def test_what_stripe_refused_is_settled_with_the_reason_and_may_be_asked_anew(bench: Bench) -> None:
    invoice_id = drafted(bench)
    with pytest.raises(PermanentError, match="no tax location"):
        finalize(bench, invoice_id, Refusing(bench.stripe, PermanentError("no tax location"), only="finalize_"))
    assert finalize(bench, invoice_id).entries == 1
    assert actions(bench) == [(1, True, "no tax location"), (2, True, None)]


class Refusing(Wrapped):
    """A gateway whose look or call ends in an error; `meanwhile` runs during the call."""

    def __init__(self, stripe: Any, error: Exception, *, only: str, meanwhile: Any = lambda: None) -> None:
        def refuse() -> None:
            meanwhile()
            raise error

        super().__init__(stripe, before=refuse, only=only)


def audited(bench: Bench) -> int:
    return len(bench.rows("SELECT 1 FROM audit WHERE action = 'stripe.finalize_invoice'"))


def open_action(bench: Bench) -> Action:
    """Return the open action, its lease being over."""
    free_leases(bench)
    with bench.transaction() as connection:
        (action,) = list_open(connection, limit=2)
    return action


@pytest.mark.parametrize(
    "error",
    [PermanentError("no"), RetryableError("busy"), SpentKeyError("used", answered=True)],
    ids=["no", "busy", "key"],
)
def test_a_worker_whose_lease_ran_out_leaves_the_action_to_the_one_at_it(bench: Bench, error: Exception) -> None:
    invoice_id = drafted(bench)
    held: list[Any] = []

    def overtaken() -> None:
        with bench.transaction() as connection:
            operator_actions.claim_action(connection, open_action(bench), lease=LEASE)
        held.extend(bench.rows("SELECT * FROM stripe_action"))

    with pytest.raises((PermanentError, RetryableError)):
        finalize(bench, invoice_id, Refusing(bench.stripe, error, only="finalize_", meanwhile=overtaken))
    assert held[0].claimed_until is not None
    assert bench.rows("SELECT * FROM stripe_action") == held
    free_leases(bench)
    assert resume_open(bench.context(PERIOD_END)) == (1, 0, [])
    assert (actions(bench), audited(bench)) == ([(1, True, None)], 1)


def test_a_refusal_before_the_call_does_not_settle_the_action_of_a_worker_at_it(bench: Bench) -> None:
    invoice_id = drafted(bench)

    def refused() -> None:
        (row,) = bench.rows("SELECT * FROM stripe_action")
        with pytest.raises(PermanentError, match="no such invoice"):
            finalize(bench, invoice_id, Late(bench.stripe))
        assert bench.rows("SELECT * FROM stripe_action") == [row]

    class Late(Wrapped):
        looks = 0

        def get_invoice(self, sought: StripeInvoiceId) -> Any:
            self.looks += 1
            if self.looks > 1:
                raise PermanentError("no such invoice")
            return self._stripe.get_invoice(sought)

    assert finalize(bench, invoice_id, Wrapped(bench.stripe, before=refused, only="finalize_")).entries == 1
    assert (actions(bench), audited(bench)) == ([(1, True, None)], 1)


def test_a_refusal_before_the_call_settles_an_action_that_nobody_is_at(bench: Bench) -> None:
    invoice_id = drafted(bench)
    with pytest.raises(CrashError):
        finalize(bench, invoice_id, Wrapped(bench.stripe, before=crash, only="finalize_"))
    gone = Refusing(bench.stripe, PermanentError("no such invoice"), only="get_invoice")
    free_leases(bench)
    assert resume_open(bench.context(PERIOD_END, gone)) == (
        0,
        0,
        [(f"finalize_invoice:{invoice_id}:1", "no such invoice")],
    )
    assert actions(bench) == [(1, True, "no such invoice")]


def test_a_success_is_settled_also_after_another_worker_was_refused(bench: Bench) -> None:
    """The lease of the first ran out during its call; the second was refused before Stripe did the first's work."""
    invoice_id = drafted(bench)

    def refused() -> None:
        free_leases(bench)
        with pytest.raises(PermanentError, match="not yet"):
            finalize(bench, invoice_id, Refusing(bench.stripe, PermanentError("not yet"), only="finalize_"))
        assert actions(bench) == [(1, True, "not yet")]

    assert finalize(bench, invoice_id, Wrapped(bench.stripe, before=refused, only="finalize_")).entries == 1
    assert (actions(bench), audited(bench)) == ([(1, True, None)], 1)


@pytest.mark.parametrize("call", ["before", "after"])
def test_a_crash_around_a_call_of_cancelling_ends_in_one_last_invoice(bench: Bench, call: str) -> None:
    customer = using(bench)

    class Crashing(Wrapped):
        def cancel_subscription(self, subscription_id: Any) -> None:
            if call == "after":
                self._stripe.cancel_subscription(subscription_id)
            crash()

    with pytest.raises(CrashError):
        cancel(bench, Crashing(bench.stripe))
    assert resume_open(bench.context(ENDED)) == (0, 0, [])  # its lease is not over
    free_leases(bench)
    assert resume_open(bench.context(ENDED)) == (1, 0, [])
    assert actions(bench) == [(1, True, None)]
    bench.handle_all(ENDED)
    bench.send()
    bench.world.advance(ENDED + GRACE)
    bench.handle_all(ENDED + GRACE)
    assert bench.world.billed_credits(customer) == [12]
    assert bench.moves(ACCOUNT) == [("invoice", -1200)]
    assert bench.rows("SELECT billing_strategy FROM cost_center WHERE superseded_at IS NULL")[0][0] == "other"
    assert bench.verified(ENDED + GRACE).clean


def test_workers_that_cancel_at_once_make_one_last_invoice(bench: Bench) -> None:
    using(bench)

    def one() -> str:
        try:
            return str(cancel(bench).outcome)
        except (RetryableError, InvalidInputError):
            return "another is at it"

    at_once(*[one] * 3)
    assert [action[1] for action in actions(bench)][-1] is True
    assert len([invoice for invoice in bench.world.invoices() if invoice.status == "draft"]) == 1


def test_one_that_has_ended_and_waits_for_its_last_invoice_is_ended_no_more(bench: Bench) -> None:
    using(bench)
    cancel(bench)
    assert cancel(bench).outcome == "subscription ended before"
    assert actions(bench) == [(1, True, None)]


def test_an_account_without_a_subscription_cannot_end_it(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="open subscription"):
        cancel(bench)


def test_the_commands_do_it_too(bench: Bench, rt: Runtime, broker: str) -> None:
    invoice_id = drafted(bench)
    TestClock(rt.redis).advance(PERIOD_END)
    for command in (
        ["reconcile", "--dry-run"],
        ["reconcile"],
        ["finalize", ACCOUNT, invoice_id],
        ["cancel-subscription", ACCOUNT],
    ):
        done = CliRunner().invoke(cli, ["invoices", *command])
        assert done.exit_code == 0, done.output
    assert bench.moves(ACCOUNT) == [("invoice", -1200)]
    assert bench.world.subscriptions()[0].status == "canceled"


def test_the_tasks_do_it_by_name(bench: Bench, rt: Runtime, broker: str) -> None:
    invoice_id = drafted(bench)
    TestClock(rt.redis).advance(PERIOD_END)
    finalized: Any = tasks.finalize_invoice(attribution_id=ACCOUNT, actor=SYSTEM, stripe_invoice_id=invoice_id)
    assert finalized == {"outcome": "invoice booked", "entries": 1}
    ended: Any = tasks.cancel_subscription(attribution_id=ACCOUNT, actor=SYSTEM)
    assert "subscription ended" in ended["outcome"]
    with pytest.raises(PermanentError, match="stripe_invoice_id"):
        tasks.finalize_invoice(attribution_id=ACCOUNT, actor=SYSTEM, stripe_invoice_id="in_../../customers")

"""The whole history of a subscription, delivered in any order, late and more than once, ends in one state.

Every event in Stripe's list is permuted: of the customer, the subscription and its invoices (one paid late, one
voided), of payments, a valid and a voided credit note, a refund, a won and a lost dispute, a change of address and an
alert.
"""

import itertools
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.factories import DAY, HOUR, team
from tests.payments.test_reflect_dispute import ANNA, bank, own
from tests.payments.test_reflect_reversals import credit
from tests.stripe_world.bench import DUNNING, Bench
from tests.stripe_world.world import GRACE
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.ledger import CONTRA_BY_KIND, EntryKind
from usage_tasks.services.payments.dunning import advance_dunning

STEPS = 9
EVENTS_MAX = 80
PROMPT = [(0, 0, 1)] * EVENTS_MAX
LAST_FIRST = [(STEPS, EVENTS_MAX - place, 2) for place in range(EVENTS_MAX)]
_deliveries = st.tuples(st.integers(0, STEPS), st.integers(0, 9), st.integers(1, 3))
_numbers = itertools.count()


class History:
    """One account's life with Stripe: each step makes changes, then handles the events that arrive."""

    def __init__(self, bench: Bench, deliveries: list[tuple[int, int, int]]) -> None:
        self.bench, self.account = bench, team(f"any-order-{next(_numbers)}")
        self.deliveries = iter(deliveries)
        self.waiting: list[tuple[int, int, int, Any]] = []
        self.step = 0
        self.began = bench.now()
        bench.world.new_events()
        self.handed_over = 0
        self.customer = bench.customer(self.account)
        bench.subscription(self.account)
        own(bench, self.account, [ANNA])
        self.ends = [add_months(self.began, month) for month in (1, 2, 3)]
        self.cancelled_at = self.ends[-1] + 5 * DAY

    def live(self) -> None:
        world = self.bench.world
        self.use(10, self.began + HOUR)
        self.arrive(self.began + 2 * HOUR)
        world.v1.customers.update(self.customer, {"address": {"country": "DE"}})
        self.arrive(self.ends[0] + GRACE)
        self.paid = self.latest()
        self.give_money_back()
        self.gather()  # Stripe lists an event for thirty days only
        world.decline(self.customer)
        self.use(7, self.ends[0] + 2 * HOUR)
        self.arrive(self.ends[1] + GRACE)
        note = credit(self.bench, world.v1.invoices.retrieve(self.latest()), 5)
        world.v1.credit_notes.void_credit_note(note.id)
        bank(self.bench, "disputes/step", dispute=self.dispute, step="win")
        world.v1.invoices.mark_uncollectible(self.latest())
        self.arrive(self.ends[1] + DAY)
        world.decline(self.customer, declined=False)
        world.collect(self.latest())
        lost = bank(self.bench, "disputes", charge=self.charge_of(self.latest()))
        bank(self.bench, "disputes/step", dispute=lost, step="lose")
        self.gather()
        world.decline(self.customer)
        self.use(4, self.ends[1] + DAY + HOUR)
        self.arrive(self.ends[2] + GRACE)
        self.bench.world.advance(self.ends[2] + DAY)
        world.v1.invoices.void_invoice(self.latest())
        self.use(3, self.ends[2] + 2 * DAY)
        self.arrive(self.ends[2] + 3 * DAY)
        world.advance(self.cancelled_at)
        world.decline(self.customer, declined=False)
        world.v1.subscriptions.cancel(world.subscriptions()[0].id, {"invoice_now": True})
        self.arrive(self.cancelled_at)
        self.arrive(self.cancelled_at + GRACE)
        self.step = STEPS
        self.arrive(self.cancelled_at + DAY)

    def give_money_back(self) -> None:
        """Give back a part of 0.15 for 10 credits: a third by a credit note, some by a refund; then dispute it."""
        v1 = self.bench.world.v1
        credit(self.bench, v1.invoices.retrieve(self.paid), 5, out_of_band_amount=5)
        (payment,) = v1.invoice_payments.list({"invoice": self.paid}).data
        v1.refunds.create({"payment_intent": payment.payment.payment_intent, "amount": 2})
        self.dispute = bank(self.bench, "disputes", charge=self.charge_of(self.paid))
        bank(self.bench, "disputes/step", dispute=self.dispute, step="respond")

    def charge_of(self, invoice_id: str) -> str:
        (payment,) = self.bench.world.v1.invoice_payments.list({"invoice": invoice_id, "status": "paid"}).data
        return str(self.bench.world.v1.payment_intents.retrieve(payment.payment.payment_intent).latest_charge)

    def use(self, credits_used: int, until: datetime) -> None:
        self.bench.use(self.account, credits_used, until=until)
        self.bench.sync_and_send(until)

    def latest(self) -> str:
        return str(self.bench.world.invoices(self.customer)[-1].id)

    def arrive(self, at: datetime) -> None:
        """Let time pass; deliver the events that are due by this step, in the drawn order, and handle them."""
        self.bench.world.advance(at)
        self.gather()
        due = [each for each in self.waiting if self.step == STEPS or each[0] <= self.step]
        self.waiting = [each for each in self.waiting if each not in due]
        for _, _, copy, event in sorted(due, key=lambda each: (each[0], each[1])):
            self.bench.store_copy(event, copy)
        self.bench.handle_stored(at)
        self.step += 1

    def gather(self) -> None:
        for event in self.bench.world.new_events():
            self.handed_over += 1
            delay, place, copies = next(self.deliveries, (0, 0, 1))
            self.waiting += [(self.step + delay, place, copy, event) for copy in range(copies)]

    def state(self, at: datetime) -> dict[str, Any]:
        bench, account = self.bench, self.account
        with bench.transaction() as connection:
            advance_dunning(connection, at=at, policy=DUNNING)
        names = {row.id: number for number, row in enumerate(bench.world.invoices(self.customer))}
        entries = bench.rows(
            "SELECT key, kind, credit_cents, effective_at FROM ledger_entry WHERE attribution_id = :account "
            "AND kind <> 'session' AND credit_cents <> 0 ORDER BY effective_at, key",
            account=account,
        )
        invoices = bench.rows(
            "SELECT stripe_invoice_id AS id, status, credit_cents, failed_at IS NOT NULL AS failed FROM stripe_invoice "
            "WHERE attribution_id = :account ORDER BY created_at, period_end",
            account=account,
        )
        settled = Counter[tuple[int, str, datetime]]()
        for key, kind, cents, effective in entries:
            settled[names[key.split(":")[1]], CONTRA_BY_KIND[EntryKind(kind)], effective] += cents
        return {
            # The entries depend on the order of arrival; their sums at each instant do not.
            "settled": {place: cents for place, cents in settled.items() if cents},
            "invoices": [(names[row.id], row.status, row.credit_cents, row.failed) for row in invoices],
            "cost_center": self.rows(
                "SELECT billing_strategy, spending_limit, cycle_started_at FROM cost_center WHERE superseded_at IS NULL"
            ),
            "subscription": self.rows("SELECT status, stripe_ended_at, ended_at FROM stripe_subscription WHERE true"),
            "dunning": self.rows("SELECT state FROM dunning WHERE true"),
            "disputes": sorted(self.rows("SELECT status FROM stripe_dispute WHERE true")),
            "blocked": self.blocked(),
            "refunds": self.rows("SELECT status, amount, stripe_invoice_id FROM stripe_refund WHERE true"),
        }

    def blocked(self) -> list[str]:
        """Return the users who are blocked in the end, by a dispute without a release."""
        told = self.bench.rows(
            "SELECT payload->>'user_id' AS who, count(*) FILTER (WHERE task = 'server.block_user') "
            "- count(*) FILTER (WHERE task = 'server.unblock_user') AS times FROM outbox "
            "WHERE task LIKE 'server.%block_user' AND payload->>'attribution_id' = :account GROUP BY 1",
            account=self.account,
        )
        assert all(row.times >= 0 for row in told)
        return [row.who for row in told if row.times]

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        found = self.bench.rows(f"{statement} AND attribution_id = :account", account=self.account)
        return [tuple(row) for row in found]

    def expected(self) -> dict[str, Any]:
        first, second, third = (end + GRACE for end in self.ends)
        given_up, paid, voided = second, self.ends[1] + DAY, self.ends[2] + DAY
        last = self.cancelled_at + GRACE
        return {
            # 333 of the first were credited; the second was given up at once and paid after all, the third voided.
            "settled": {
                (1, "invoiced", first): -667,
                (1, "forgiven", first): -333,
                (2, "forgiven", given_up): -700,
                (2, "invoiced", paid): -700,
                (2, "forgiven", paid): 700,
                (3, "invoiced", third): -400,
                (3, "invoiced", voided): 400,
                (3, "forgiven", voided): -400,
                (4, "invoiced", last): -300,
            },
            "invoices": [
                (0, "paid", 0, False),
                (1, "paid", 1000, False),
                (2, "paid", 700, True),
                (3, "void", 400, True),
                (4, "paid", 300, False),
            ],
            "cost_center": [("other", 500, last)],
            "subscription": [("canceled", self.cancelled_at, self.cancelled_at)],
            "dunning": [],
            "disputes": [("lost",), ("won",)],
            "blocked": [str(ANNA)],
            "refunds": [("succeeded", 2, self.paid)],
        }


@pytest.mark.holds("lesson.out-of-order")
@pytest.mark.timeout(400)
@settings(max_examples=examples(4), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(_deliveries, min_size=EVENTS_MAX, max_size=EVENTS_MAX))
@example(PROMPT)
@example(LAST_FIRST)
def test_any_order_delay_and_repetition_of_a_subscriptions_events_end_in_the_same_state(
    bench: Bench, deliveries: list[tuple[int, int, int]]
) -> None:
    history = History(bench, deliveries)
    history.live()
    assert 40 < history.handed_over <= EVENTS_MAX, history.handed_over  # for each of them a delivery was drawn
    at = history.cancelled_at + DAY
    assert history.state(at) == history.expected()
    assert bench.balance(history.account, at) == 0
    assert bench.verified(at).clean
    states = bench.rows("SELECT state FROM stripe_event GROUP BY state")
    assert [row.state for row in states] == ["applied"]

"""The course of dunning in SQL is the domain's: places, announcements, counts and audit, account by account."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START, SYSTEM, team
from tests.rows import insert_rows
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.dunning import (
    Dunning,
    DunningPolicy,
    DunningState,
    DunningStep,
    HeldDunning,
    InvoicePayment,
    advance_account,
    failing_since,
    judge_failing,
)
from usage_tasks.domain.payments import InvoiceStatus
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.payments.dunning import advance

TICK = timedelta(microseconds=1)
AT = START + 9 * DAY
BESIDE = [0 * TICK, 0 * TICK, -TICK, TICK]
SPANS = [0 * HOUR, HOUR, 3 * HOUR, DAY]
UNPAID = [InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE]
# Many accounts a statement, seeded by Hypothesis: it would draw them one by one for longer than the SQL takes.
RANDOMS = st.randoms(use_true_random=True)
ACCOUNTS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An account: its invoices and its stored place."""

    payments: Sequence[InvoicePayment]
    held: HeldDunning | None

    def step(self, policy: DunningPolicy | None) -> DunningStep | None:
        return advance_account(self.held, failing_since(self.payments), at=AT, policy=policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A policy and accounts whose failures lie at its edges, or a microsecond beside them."""

    policy: DunningPolicy
    cases: Sequence[Case]


def random_world(rng: Random) -> World:
    grace, rest = rng.choice(SPANS), rng.choice(SPANS)
    every = rng.choice([HOUR / 2, HOUR, 2 * HOUR, timedelta(seconds=7)])
    policy = DunningPolicy(grace=grace, reminder_every=every, suspend_after=grace + rest)
    return World(policy=policy, cases=[random_case(rng, policy) for _ in range(ACCOUNTS)])


def random_case(rng: Random, policy: DunningPolicy) -> Case:
    statuses = [*UNPAID, *UNPAID, *InvoiceStatus]
    payments = [
        InvoicePayment(
            status=rng.choice(statuses), failed_at=rng.choice([None, *(random_failure(rng, policy) for _ in range(3))])
        )
        for _ in range(rng.randrange(3))
    ]
    return Case(payments=payments, held=rng.choice([None, random_held(rng, policy), random_held(rng, policy)]))


def random_failure(rng: Random, policy: DunningPolicy) -> datetime:
    reminders = [policy.grace + number * policy.reminder_every for number in range(3)]
    edges = [0 * HOUR, *reminders, policy.suspend_after, policy.suspend_after + HOUR]
    return AT - rng.choice(edges) + rng.choice(BESIDE)


def random_held(rng: Random, policy: DunningPolicy) -> HeldDunning:
    """A place that a sweep at `AT` or before it stored, or any other one."""
    changed_at = AT + rng.choice([-HOUR, -TICK, 0 * HOUR, TICK])
    place = judge_failing(random_failure(rng, policy), at=min(AT, changed_at), policy=policy)
    other = replace(place, state=rng.choice(list(DunningState)), reminders=max(0, place.reminders + rng.randint(-1, 1)))
    return HeldDunning(dunning=rng.choice([place, other]), changed_at=changed_at)


def store(connection: Connection, examples: Sequence[Case]) -> None:
    invoices, places = [], []
    for number, case in enumerate(examples):
        for index, payment in enumerate(case.payments):
            invoices.append(invoice_row(team(number), f"in_{number}_{index}", payment))
        if case.held is not None:
            places.append(dunning_row(team(number), case.held))
    insert_rows(connection, "stripe_invoice", invoices)
    insert_rows(connection, "dunning", places)


def invoice_row(account: AttributionId, invoice_id: str, payment: InvoicePayment) -> dict[str, object]:
    amounts = dict.fromkeys(("credit_cents", "total", "amount_due", "amount_paid", "amount_remaining", "attempts"), 0)
    moments = dict.fromkeys(("period_start", "period_end", "created_at", "fetched_at"), START)
    return {
        "attribution_id": account,
        "stripe_invoice_id": invoice_id,
        "stripe_subscription_id": "sub_1",
        "status": payment.status.value,
        "currency": "usd",
        "finalized_at": None if payment.status is InvoiceStatus.DRAFT else START,
        "failed_at": payment.failed_at,
        **amounts,
        **moments,
    }


def dunning_row(account: AttributionId, held: HeldDunning) -> dict[str, object]:
    return {
        "attribution_id": account,
        "state": held.dunning.state.value,
        "failing_since": held.dunning.failing_since,
        "reminders": held.dunning.reminders,
        "changed_at": held.changed_at,
    }


def stored(connection: Connection) -> dict[str, HeldDunning]:
    rows = connection.execute(text("SELECT attribution_id, state, failing_since, reminders, changed_at FROM dunning"))
    return {
        row.attribution_id: HeldDunning(
            dunning=Dunning(state=DunningState(row.state), failing_since=row.failing_since, reminders=row.reminders),
            changed_at=row.changed_at,
        )
        for row in rows
    }


def expected_place(case: Case, step: DunningStep | None) -> HeldDunning | None:
    if step is None:
        return case.held
    return None if step.now is None else HeldDunning(dunning=step.now, changed_at=AT)


def announcement(account: AttributionId, step: DunningStep) -> tuple[str, dict[str, Any]]:
    place = step.now or step.former
    assert place is not None
    payload = {
        "attribution_id": account,
        "state": "none" if step.now is None else step.now.state,
        "failing_since": place.failing_since.isoformat(),
        "reminders": 0 if step.now is None else step.now.reminders,
        "at": AT.isoformat(),
    }
    return f"server.{step.announced}", payload


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=RANDOMS, enabled=st.sampled_from([True, True, True, False]), only=st.sampled_from([None, None, None, 3]))
def test_the_database_takes_the_steps_that_the_domain_takes(
    connection: Connection, rng: Random, only: int | None, *, enabled: bool
) -> None:
    world = random_world(rng)
    policy = world.policy if enabled else None
    judged = range(len(world.cases)) if only is None else [only]
    steps = {number: step for number in judged if (step := world.cases[number].step(policy)) is not None}
    with rehearsal(connection):
        store(connection, world.cases)
        account = None if only is None else team(only)
        counts = advance(connection, at=AT, policy=policy, actor=SYSTEM, only=account)
        assert counts == Counter(
            f"server.{step.announced}" if step.announced else "unannounced" for step in steps.values()
        )
        places = {team(number): expected_place(case, steps.get(number)) for number, case in enumerate(world.cases)}
        assert stored(connection) == {account: place for account, place in places.items() if place is not None}
        assert_announced(connection, steps)
        assert_audited(connection, steps)
        # The table is the sweep's memory: the same sweep again takes no step.
        assert advance(connection, at=AT, policy=policy, actor=SYSTEM, only=account) == {}


def assert_announced(connection: Connection, steps: dict[int, DunningStep]) -> None:
    rows = connection.execute(text("SELECT task, payload FROM outbox"))
    found = {row.payload["attribution_id"]: (row.task, row.payload) for row in rows}
    announced = {team(number): step for number, step in steps.items() if step.announced is not None}
    assert found == {account: announcement(account, step) for account, step in announced.items()}


def assert_audited(connection: Connection, steps: dict[int, DunningStep]) -> None:
    rows = connection.execute(text("SELECT attribution_id, details -> 'state' AS states FROM audit"))
    states = {
        team(number): [str(each.state) if each else "none" for each in (step.former, step.now)]
        for number, step in steps.items()
    }
    assert {row.attribution_id: row.states for row in rows} == states

"""Grants against a model that moves cent by cent and settles every instant exactly when it comes."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import DAY, LIMITS, START, SYSTEM, account_of, give, record, team, used_report
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.cycles import add_months
from usage_tasks.services.ledger.add_credit_note import add_credit_note
from usage_tasks.services.ledger.cost_center import get_cost_center, open_accounts
from usage_tasks.services.ledger.grant_credits import list_grants
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.ledger.reset import reset_account, reset_due, settle_expired
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.ledger.balances import get_balance

LIMIT = 3
"""Credits a cycle."""

END = START + 100 * DAY
CYCLE_ENDS = [add_months(START, number) for number in (1, 2, 3)]
# Days with coincidences: cycles end on days 31, 59 and 90.
DAYS = st.one_of(st.integers(0, 95), st.sampled_from([30, 31, 32, 59, 60, 90]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A grant in days from the start."""

    cents: int
    priority: int
    made: int
    after: int
    lasts: int | None
    cap: int | None

    @property
    def made_at(self) -> datetime:
        return START + self.made * DAY

    @property
    def effective_at(self) -> datetime:
        return self.made_at + self.after * DAY

    @property
    def expires_at(self) -> datetime | None:
        return None if self.lasts is None else self.effective_at + self.lasts * DAY


@dataclass(slots=True, kw_only=True)
class Model:
    """The open usage and the rest of each grant, moved cent by cent."""

    grants: Sequence[Given]
    open: int = 0
    left: dict[int, int] = field(default_factory=dict)
    burns: dict[tuple[int, datetime], int] = field(default_factory=lambda: defaultdict(int))
    lapses: dict[tuple[int, datetime], int] = field(default_factory=dict)

    def in_order(self, usable: Callable[[Given], bool]) -> list[int]:
        numbers = [number for number in self.left if usable(self.grants[number])]
        return sorted(numbers, key=lambda n: (self.grants[n].priority, self.grants[n].expires_at or END + 365 * DAY, n))

    def settle(self, at: datetime) -> None:
        usable = self.in_order(lambda grant: grant.effective_at < at)
        for number in usable:
            while self.open > 0 and self.left[number] > 0:
                self.open, self.left[number] = self.open - 1, self.left[number] - 1
                self.burns[number, at] += 1
        for number in usable:
            grant, keeps = self.grants[number], self.left[number]
            if grant.expires_at is not None and grant.expires_at <= at:
                keeps = 0
            elif at in CYCLE_ENDS and grant.cap is not None:
                keeps = min(keeps, grant.cap)
            if self.left[number] > keeps:
                self.lapses[number, at] = self.left[number] - keeps
                self.left[number] = keeps
        if at in CYCLE_ENDS:
            self.open -= max(0, min(self.open, LIMIT * 100))

    def shown(self, at: datetime) -> int:
        in_force = sum(
            cents
            for number, cents in self.left.items()
            if self.grants[number].effective_at <= at < (self.grants[number].expires_at or END + DAY)
        )
        return self.open - max(0, min(self.open, in_force))


givens = st.builds(
    Given,
    cents=st.integers(1, 900),
    priority=st.integers(0, 2),
    made=DAYS,
    after=st.sampled_from([0, 0, 1, 5, 31]),
    lasts=st.none() | st.integers(1, 60),
    cap=st.none() | st.integers(0, 300),
)
uses = st.tuples(DAYS, st.integers(1, 120).map(lambda fives: 5 * fives))
notes = st.tuples(DAYS, st.integers(-200, 200).filter(bool))
jobs = st.tuples(DAYS, st.sampled_from(["reset", "settle", "account", "post", "read"]))


def run_job(connection: Connection, job: str, at: datetime) -> None:
    match job:
        case "reset":
            while not reset_due(connection, at=at).idle:
                pass
        case "settle":
            while not settle_expired(connection, at=at).idle:
                pass
        case "account":
            reset_account(connection, team(), at=at, actor=SYSTEM)
        case "post":
            post_batch(connection, at=at)
        case "read":
            get_cost_center(connection, account_of(team()), limits=LIMITS, at=at, actor=SYSTEM)


def run_model(
    grants: Sequence[Given], movements: Sequence[tuple[datetime, int]], asked: Sequence[datetime]
) -> tuple[Model, dict[datetime, int]]:
    model, shown = Model(grants=grants), {}
    expiries = [grant.expires_at for grant in grants if grant.expires_at and grant.expires_at <= END]
    for at in sorted({*CYCLE_ENDS, *expiries, *asked, *(at for at, _ in movements), *(g.made_at for g in grants)}):
        model.open += sum(cents for moment, cents in movements if moment == at)
        if at in CYCLE_ENDS or any(left and grants[number].expires_at == at for number, left in model.left.items()):
            model.settle(at)
        # Due settlements come before a new grant, so that a grant never pays at its own first instant.
        model.left |= {number: grant.cents for number, grant in enumerate(grants) if grant.made_at == at}
        if at in asked:
            shown[at] = model.shown(at)
    return model, shown


def booked(connection: Connection) -> tuple[dict[tuple[int, datetime], int], dict[tuple[int, datetime], int]]:
    burns: dict[tuple[int, datetime], int] = {}
    lapses: dict[tuple[int, datetime], int] = {}
    for held in list_grants(connection, account_of(team()), at=END):
        for movement in held.movements:
            into = burns if movement.what == "burn" else lapses
            into[held.number, movement.at] = movement.credit_cents
            assert movement.what == "burn" or (movement.what == "expiry") == (movement.at == held.expires_at)
        taken = sum(movement.credit_cents for movement in held.movements)
        assert held.amount_cents == taken + held.remaining_cents
        assert 0 <= held.pending_cents <= held.remaining_cents
    return burns, lapses


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A history, in days from the start."""

    grants: Sequence[Given]
    used: Sequence[tuple[int, int]]
    noted: Sequence[tuple[int, int]]
    runs: Sequence[tuple[int, str]]


histories = st.builds(
    History,
    grants=st.lists(givens, min_size=1, max_size=4).map(lambda drawn: sorted(drawn, key=lambda grant: grant.made)),
    used=st.lists(uses, max_size=6),
    noted=st.lists(notes, max_size=2),
    runs=st.lists(jobs, max_size=8),
)


def play(connection: Connection, history: History) -> None:
    """Day by day: usage and notes, then jobs, then new grants; at last every job."""
    limits = replace(LIMITS, for_teams=LIMIT)
    open_accounts(connection, [team()], limits=limits, at=START, actor=SYSTEM)
    for day in range(101):
        at = START + day * DAY
        record(
            connection, *(used_report(team(), cents, at=at) for moment, cents in history.used if moment == day), at=at
        )
        for number, (moment, cents) in enumerate(history.noted):
            if moment == day:
                note(connection, str(number), -cents, at)
        for moment, job in history.runs:
            if moment == day:
                run_job(connection, job, at)
        for each in history.grants:
            if each.made == day:
                give(
                    connection,
                    each.cents,
                    at=at,
                    priority=each.priority,
                    effective_at=each.effective_at,
                    expires_at=each.expires_at,
                    rollover_cap_cents=each.cap,
                )
    for job in ("post", "settle", "reset", "settle"):
        run_job(connection, job, END)


def note(connection: Connection, key: str, cents: int, at: datetime) -> None:
    add_credit_note(
        connection,
        account_of(team()),
        amount=CreditCents(cents),
        description="note",
        idempotency_key=key,
        user_id=None,
        limits=LIMITS,
        at=at,
        actor=SYSTEM,
    )


@pytest.mark.holds("grants.burn-order", "grants.cycle-end")
@example(
    history=History(
        grants=[Given(cents=1, priority=0, made=0, after=0, lasts=None, cap=None)],
        used=[],
        noted=[(0, 127), (60, -159)],  # the job runs after the second note, and settles as of before it
        runs=[],
    ),
    asked=[0],
)
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories, asked=st.lists(DAYS, min_size=1, max_size=5))
def test_grants_pay_what_a_model_says_whenever_the_jobs_run(
    connection: Connection, history: History, asked: list[int]
) -> None:
    instants = [START + day * DAY for day in asked]
    movements = [(START + day * DAY, cents) for day, cents in [*history.used, *history.noted]]
    model, shown = run_model(history.grants, movements, instants)
    with connection.begin_nested() as savepoint:
        play(connection, history)
        assert verify(connection, at=END).describe() == ""
        burns, lapses = booked(connection)
        assert burns == {(number + 1, at): cents for (number, at), cents in model.burns.items()}
        assert lapses == {(number + 1, at): cents for (number, at), cents in model.lapses.items()}
        assert {at: get_balance(connection, team(), at=at) for at in instants} == shown
        held = connection.execute(text("SELECT * FROM account_balance")).mappings().all()
        assert sum(row["carried_cents"] for row in held) == model.open
        assert sum(row["covered_cents"] for row in held) >= sum(burns.values())
        savepoint.rollback()


def test_the_grid_of_the_model_has_the_cycles_ends() -> None:
    assert [(end - START) // timedelta(days=1) for end in CYCLE_ENDS] == [31, 59, 90]

"""Balances weeks ago, in 1970 and to come, against a recomputation from the facts; the rows that a read fetches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import floor
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import DAY, HOUR, START, SYSTEM, make_id, record, session_report, stopped_report, team
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.grants import GrantTerms
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.prices import ALL_TIME, AskedPrice
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.pricing.add_price import add_price_version
from usage_tasks.storage.ledger import grants
from usage_tasks.storage.ledger.balances import get_balance, list_gross_balances
from usage_tasks.storage.ledger.entries import Entry, append_entries
from usage_tasks.storage.ledger.posting import post_stopped
from usage_tasks.storage.ledger.usage_report import Group, Scope, sum_usage
from usage_tasks.storage.verification import run_checks

WEEK: Final = 7 * DAY
MONDAY: Final = START - 3 * DAY
MICROSECOND: Final = timedelta(microseconds=1)
SECOND: Final = timedelta(seconds=1)
END: Final = START + 60 * DAY
FAR: Final = [datetime(1970, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)]
PRICES: Final = {"small": Decimal("0.1"), "large": Decimal("0.5")}

# Many instants fall into one hour, or beside the start of a week.
INSTANTS = st.one_of(
    st.builds(
        lambda week, near: MONDAY + week * WEEK + near,
        st.integers(0, 6),
        st.sampled_from([-SECOND, -MICROSECOND, timedelta(0), MICROSECOND, SECOND]),
    ),
    st.builds(
        lambda week, quarters: MONDAY + week * WEEK + 4 * DAY + quarters * HOUR / 4,
        st.integers(0, 6),
        st.integers(0, 8),
    ),
    st.timedeltas(timedelta(0), 45 * DAY).map(lambda offset: START + offset),
)
ONE, TWO = team("one"), team("two")
ACCOUNTS = st.sampled_from([ONE, TWO])


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A price from an instant on, with the minimum charge of a session that starts under it."""

    effective_from: datetime
    credits_per_minute: Decimal
    minimum_cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repriced:
    """A price version added by hand."""

    workspace_class: str
    version: Priced


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Credits without a burn so far."""

    attribution_id: AttributionId
    credit_cents: int
    effective_at: datetime


@st.composite
def reports(draw: st.DrawFn) -> SessionReport:
    """Running, stopping, stopped, of no length, odd; of few sessions, so that many correct another report."""
    number = draw(st.integers(0, 3))
    started_at = draw(INSTANTS)
    return session_report(
        instance_id=make_id(number),
        attribution_id=(ONE, TWO)[number % 2],
        workspace_class=draw(st.sampled_from(sorted(PRICES))),
        started_at=started_at,
        stopping_at=draw(st.one_of(st.none(), st.none(), INSTANTS)),
        stopped_at=draw(st.one_of(st.none(), INSTANTS, INSTANTS, st.just(started_at))),
        observed_at=START + draw(st.integers(0, 1000)) * HOUR,
    )


@st.composite
def settlements(draw: st.DrawFn) -> Entry:
    """Any entry that is not usage, dated back or ahead."""
    kind = draw(st.sampled_from([EntryKind.INVOICE, EntryKind.RESET, EntryKind.CREDIT_NOTE, EntryKind.WRITE_OFF]))
    return Entry(
        attribution_id=draw(ACCOUNTS),
        key=f"{kind}:{draw(st.integers(0, 1000))}",
        kind=kind,
        credit_cents=draw(st.integers(-500_000, 500_000)),
        effective_at=draw(INSTANTS),
        description="a settlement",
    )


VERSIONS = st.builds(
    Priced,
    effective_from=INSTANTS,
    credits_per_minute=st.decimals(0, 3, places=5),
    minimum_cents=st.sampled_from([0, 0, 75]),
)
STEPS = st.lists(
    st.one_of(
        st.lists(reports(), min_size=1, max_size=3, unique_by=lambda each: each.instance_id),
        st.lists(reports(), min_size=1, max_size=3, unique_by=lambda each: each.instance_id),
        INSTANTS,
        st.just(END),
        settlements(),
        st.builds(Repriced, workspace_class=st.sampled_from(sorted(PRICES)), version=VERSIONS),
        st.builds(Grant, attribution_id=ACCOUNTS, credit_cents=st.integers(1, 100_000), effective_at=INSTANTS),
    ),
    min_size=3,
    max_size=12,
)


class Model:
    """The facts, and a price of the usage until an instant that shares nothing with the statements."""

    def __init__(self) -> None:
        first = {
            name: Priced(effective_from=ALL_TIME, credits_per_minute=p, minimum_cents=0) for name, p in PRICES.items()
        }
        self.prices: Mapping[str, list[Priced]] = {name: [version] for name, version in first.items()}
        self.facts: dict[object, SessionReport] = {}
        self.entries: dict[tuple[str, str], Entry] = {}
        self.grants: list[Grant] = []
        self._observed: set[tuple[object, datetime]] = set()

    def hear(self, report: SessionReport) -> bool:
        """Record a report. Return False for a tie in rank, which another test covers."""
        if (report.instance_id, report.observed_at) in self._observed:
            return False
        self._observed.add((report.instance_id, report.observed_at))
        held = self.facts.get(report.instance_id)
        if held is None or _knowledge(report) > _knowledge(held):
            self.facts[report.instance_id] = report
        return True

    def gross(self, account: str, at: datetime) -> int:
        ran = [each for each in self.facts.values() if each.attribution_id == account and each.started_at <= at]
        settled = [each for each in self.entries.values() if each.attribution_id == account and each.effective_at <= at]
        return sum(self._cents(each, at) for each in ran) + sum(each.credit_cents for each in settled)

    def balance(self, account: str, at: datetime) -> int:
        given = sum(e.credit_cents for e in self.grants if e.attribution_id == account and e.effective_at <= at)
        gross = self.gross(account, at)
        return gross - max(0, min(gross, given))

    def _cents(self, facts: SessionReport, at: datetime) -> int:
        until = min(facts.stopping_at or facts.stopped_at or at, at)
        versions = sorted(self.prices[facts.workspace_class], key=lambda each: each.effective_from)
        ran = [each for each in versions if each.effective_from <= max(until, facts.started_at)]
        first = max(number for number, each in enumerate(versions) if each.effective_from <= facts.started_at)
        edges = [facts.started_at, *(each.effective_from for each in ran[first + 1 :]), until]
        seconds = [_seconds(facts.started_at, edge) for edge in edges]
        lengths = [max(0, after - before) for before, after in pairwise(seconds)]
        exact = sum(n * Fraction(each.credits_per_minute) for n, each in zip(lengths, ran[first:], strict=True))
        least = versions[first].minimum_cents if until - facts.started_at >= SECOND / 2 else 0
        return max(floor(Fraction(100, 60) * exact + Fraction(1, 2)), least)

    def instants(self) -> list[datetime]:
        edges = [
            at for each in self.facts.values() for at in (each.started_at, each.stopping_at, each.stopped_at) if at
        ]
        edges += [each.effective_at for each in self.entries.values()]
        edges += [each.effective_at for each in self.grants]
        middles = [one + (other - one) / 2 for one, other in pairwise(sorted(edges))]
        return [*(at + near for at in edges for near in (-MICROSECOND, timedelta(0), MICROSECOND)), *middles, *FAR, END]


def _knowledge(report: SessionReport) -> tuple[bool, bool, datetime]:
    return report.stopped_at is not None, report.stopping_at is not None, report.observed_at


def _seconds(started_at: datetime, until: datetime) -> int:
    return max(0, floor(Fraction((until - started_at) // MICROSECOND, 10**6) + Fraction(1, 2)))


def take(connection: Connection, model: Model, step: object) -> None:
    """Do one step to the database and to the model."""
    match step:
        case datetime():
            post_stopped(connection, at=step, limit=100)
        case Entry():
            append_entries(connection, [step])
            model.entries.setdefault((step.attribution_id, step.key), step)
        case Grant():
            terms = GrantTerms(
                attribution_id=step.attribution_id,
                key=f"grant {len(model.grants)}",
                amount_cents=CreditCents(step.credit_cents),
                priority=50,
                effective_at=step.effective_at,
                expires_at=None,
                rollover_cap_cents=None,
                description="a grant",
            )
            grants.insert_grant(connection, terms, actor=SYSTEM)
            model.grants.append(step)
        case Repriced(workspace_class=name, version=version):
            if version.effective_from not in {each.effective_from for each in model.prices[name]}:
                model.prices[name].append(version)
                asked = AskedPrice(
                    workspace_class=name,
                    effective_from=version.effective_from,
                    credits_per_minute=version.credits_per_minute,
                    minimum_cents=CreditCents(version.minimum_cents),
                    rounding_seconds=1,
                )
                add_price_version(connection, asked, at=START, actor=SYSTEM)
        case list():
            record(connection, *(each for each in step if model.hear(each)))


@pytest.mark.holds("usage.balance")
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, asked=st.lists(INSTANTS, max_size=4))
def test_a_balance_weeks_ago_is_what_the_facts_say(
    connection: Connection, steps: Sequence[object], asked: list[datetime]
) -> None:
    model = Model()
    with connection.begin_nested() as savepoint:
        for step in steps:
            take(connection, model, step)
        instants = [*model.instants(), *asked]
        for at, other in zip(instants, reversed(instants), strict=True):
            for account in (ONE, TWO):
                assert get_balance(connection, account, at=at) == model.balance(account, at)
            gross = list_gross_balances(connection, [(ONE, at), (TWO, other)])
            assert gross == {ONE: model.gross(ONE, at), TWO: model.gross(TWO, other)}
        found = {each.check: each.offenders for each in run_checks(connection, at=END, grace=DAY)}
        assert found["weeks_match_entries"] == 0
        savepoint.rollback()


def test_what_a_look_at_the_past_reads_lies_around_the_instant(connection: Connection) -> None:
    connection.execute(text("SET LOCAL enable_seqscan = off"))
    for week in range(40):
        started_at = MONDAY + week * WEEK
        sessions = [stopped_report(HOUR, started_at=started_at + day * DAY) for day in range(7) for _ in range(3)]
        record(connection, *sessions)
    post_stopped(connection, at=MONDAY + 41 * WEEK, limit=10_000)
    connection.execute(text("ANALYZE"))
    at = MONDAY + 4 * WEEK + HOUR / 2
    report = partial(sum_usage, start=at, end=at + HOUR, at=END, groups=[Group.DAY], after=None, limit=10)
    looks: dict[str, Callable[[], object]] = {
        "balance": lambda: get_balance(connection, team(), at=at),
        "balance in 1970": lambda: get_balance(connection, team(), at=FAR[0]),
        "report": lambda: report(connection, Scope(account=team())),
    }
    for name, look in looks.items():
        before = rows_read(connection)
        look()
        assert rows_read(connection) - before < 150, name


def rows_read(connection: Connection) -> int:
    """Rows of sessions, entries and weeks that this transaction has fetched so far."""
    statement = """
        SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables
        WHERE relname IN ('ledger_entry', 'workspace_instance', 'account_week')
    """
    return int(connection.execute(text(statement)).scalar_one())


def test_a_session_of_many_weeks_counts_in_each_of_them(connection: Connection) -> None:
    others = [stopped_report(HOUR, started_at=START + week * WEEK) for week in range(1, 8)]
    record(connection, stopped_report(30 * DAY, workspace_class="large"), *others)
    for _ in range(2):
        found = [get_balance(connection, team(), at=START + lasted) for lasted in (HOUR, 6 * DAY, 31 * DAY)]
        assert found == [50 * 60, 50 * 60 * 24 * 6, 50 * 60 * 24 * 30 + 4 * 600]
        post_stopped(connection, at=END, limit=100)


def test_a_start_that_moves_behind_the_first_entry_takes_it_back_weeks_later(connection: Connection) -> None:
    wrong = stopped_report(HOUR, workspace_class="large")
    record(connection, wrong)
    post_stopped(connection, at=END, limit=100)
    moved = {"instance_id": wrong.instance_id, "workspace_class": "large", "started_at": START + 3 * WEEK}
    record(connection, stopped_report(HOUR, **moved))
    for _ in range(2):
        weeks = [get_balance(connection, team(), at=START + week * WEEK + HOUR) for week in range(5)]
        assert weeks == [0, 0, 0, 3000, 3000]
        post_stopped(connection, at=END, limit=100)

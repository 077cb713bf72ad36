"""`python -m tests.faults.month_of_faults --seed N --accounts K`: a month of the real quarter billed under faults.

The sessions of the quarter's busiest month, moved to the beginning of the tests' price list, are recorded tick by tick
and billed through the simulator, which meanwhile refuses, cuts, delays and complains later, by a seed. Webhooks come
twice, late, in any order, or never. In the end each account's invoice is compared with the price of its sessions, which
is computed here from the file. Nothing waits for real time: pauses are skipped.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from math import floor
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar
from uuid import uuid4

from tests.conftest import PRICES
from tests.factories import HOUR, LIMITS, START, SYSTEM
from tests.stripe_world.bench import Bench
from tests.stripe_world.whole import time_passes
from tests.stripe_world.world import EVENT_NAME, GRACE, stripe_world
from usage_tasks.demo.quarter import Session, load_quarter, reports_between
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.errors import RetryableError
from usage_tasks.embedded.servers import running_servers
from usage_tasks.services.inbox.parse_event import parse_event
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.metering.drift import Question, report_drift
from usage_tasks.services.metering.meter_errors import handle_meter_errors
from usage_tasks.services.metering.parked import release_account
from usage_tasks.services.payments.reconcile_invoices import reconcile_invoices
from usage_tasks.services.sessions.record import record_reports
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.inbox import events as inbox
from usage_tasks.storage.pricing.prices import publish_prices
from usage_tasks.telemetry.logs import configure_logging
from usage_tasks.wire.session_reports import parse_reports

MONTH: Final = datetime(2013, 3, 1, tzinfo=UTC)
"""The busiest month of the quarter."""

BEGIN: Final = datetime(2026, 3, 1, tzinfo=UTC)
END: Final = datetime(2026, 4, 1, tzinfo=UTC)
FAULTS: Final[Mapping[str, float]] = {
    "rate_limited": 0.04,
    "lock_timeout": 0.03,
    "server_error": 0.03,
    "cut_before": 0.04,
    "cut_after": 0.06,
    "slow": 0.02,
}
"""The probability of each fault per request."""

_SLOW_SECONDS: Final = 0.02
_REJECTED: Final = 0.05
"""The probability per tick that an account's events are accepted and get an error later."""

_PASSING, _FINAL = "archived_meter", "meter_event_customer_not_found"
_DROPPED, _TWICE, _LATE = 0.1, 0.15, 0.3
_ROUNDS_MAX: Final = 200

Answer = TypeVar("Answer")


@dataclass(kw_only=True)
class Result:
    """The work done, the faults injected, and the differences at the end, which must be none."""

    accounts: int
    sessions: int
    credits: int = 0
    invoices: int = 0
    requests: int = 0
    seconds: float = 0.0
    injected: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield the lines of a table of it."""
        yield f"{'accounts':32}{self.accounts:>10,}"
        yield f"{'sessions':32}{self.sessions:>10,}"
        yield f"{'requests to Stripe':32}{self.requests:>10,}"
        for kind, count in sorted(self.injected.items()):
            yield f"{'  ' + kind:32}{count:>10,}"
        yield f"{'invoices over something':32}{self.invoices:>10,}"
        yield f"{'credits invoiced':32}{self.credits:>10,}"
        yield f"{'seconds':32}{self.seconds:>10,.1f}"
        yield f"{'differences':32}{len(self.differences):>10,}"
        yield from (f"  {difference}" for difference in self.differences)


def sessions_of_month(accounts: int | None) -> Sequence[Session]:
    """List the month's sessions of the busiest accounts, so many or all, in the time of the tests' price list."""
    moved = BEGIN - MONTH
    found = [
        replace(
            session,
            created_at=session.created_at + moved,
            started_at=session.started_at + moved,
            stopped_at=session.stopped_at + moved,
        )
        for session in load_quarter()
    ]
    found = [session for session in found if BEGIN <= session.started_at < END and session.stopped_at >= BEGIN]
    busiest = [name for name, _ in Counter(session.attribution_id for session in found).most_common(accounts)]
    return [session for session in found if session.attribution_id in busiest]


def used_cents(sessions: Sequence[Session]) -> Mapping[str, int]:
    """Price each account's sessions by the file alone: usage until the month's end, each session rounded half up."""
    cents: Counter[str] = Counter()
    for session in sessions:
        seconds = max(int((min(session.stopped_at, END) - session.started_at).total_seconds()), 0)
        exact = Fraction(PRICES[session.workspace_class]) * 100 * seconds / 60
        cents[session.attribution_id] += floor(exact + Fraction(1, 2))
    return cents


class Month:
    """One installation's month."""

    def __init__(self, bench: Bench, sessions: Sequence[Session], *, seed: int) -> None:
        self.bench, self.sessions, self.random, self.seed = bench, sessions, Random(seed), seed
        self.accounts = [AttributionId(name) for name in sorted({session.attribution_id for session in sessions})]
        self.result = Result(accounts=len(self.accounts), sessions=len(sessions))
        self.customers: dict[AttributionId, str] = {}
        self._seen: set[str] = set()
        self._late: list[tuple[datetime, dict[str, Any]]] = []
        self._complaints: set[str] = set()

    def live(self, *, tick: timedelta) -> Result:
        """Bill the month, and compare."""
        started = time.perf_counter()
        for number, (kind, probability) in enumerate(FAULTS.items()):
            rule = {"kind": kind, "probability": probability, "seed": self.seed * 100 + number}
            self.bench.world.switch("faults", **rule | ({"seconds": _SLOW_SECONDS} if kind == "slow" else {}))
        for account in self.accounts:
            self.customers[account] = self._insist(partial(self.bench.customer, account, at=BEGIN))
            self._insist(partial(self.bench.subscription, account))
        before = BEGIN
        for at in [*(BEGIN + tick * number for number in range(1, (END - BEGIN) // tick)), END]:
            self._tick(before, at)
            before = at
        for minutes in (20, 40):  # within the draft's hour
            self._tick(END, END + timedelta(minutes=minutes), whole=True)
            self._reconcile(END + timedelta(minutes=minutes))
            self._send(END + timedelta(minutes=minutes), whole=True)
        for hours in (1, 2):
            at = END + hours * GRACE
            self._tick(at - GRACE, at, whole=True)
            self._reconcile(at)
        told = self.bench.world.server.simulator.faults.summary()
        self.result.injected += Counter(told["counts"])
        self.result.requests = told["rules"][0]["matched"]  # the first rule is asked of every request
        self.bench.world.server.simulator.faults.remove(None)
        self._send(END + 2 * GRACE, whole=True)
        self._compare(END + 2 * GRACE)
        self.result.seconds = time.perf_counter() - started
        return self.result

    def _insist(self, call: Callable[[], Answer]) -> Answer:
        """Call again after a RetryableError, as a task is run again."""
        for _ in range(_ROUNDS_MAX):
            try:
                return call()
            except RetryableError:
                continue
        raise AssertionError("it never succeeded")

    def _tick(self, before: datetime, at: datetime, *, whole: bool = False) -> None:
        bench = self.bench
        self._record(before, at)
        rejects = {
            self.customers[account]: self.random.choice((_PASSING, _FINAL))
            for account in self.accounts
            if not whole and self.random.random() < _REJECTED
        }
        bench.world.switch("meters", reject=rejects)
        bench.world.advance(at)
        bench.sync(at)
        self._send(at, whole=whole)
        self._receive(at, whole=whole)
        for _ in range(_ROUNDS_MAX if whole else 2):
            time_passes(bench)
            done = self._insist(lambda: bench.apply(at))
            if done.parked:
                self.result.differences.append(f"{at}: {done.parked} events parked")
            if not done.retried + done.applied:
                break
        self._send(at, whole=whole)

    def _record(self, before: datetime, at: datetime) -> None:
        rows = reports_between(self.sessions, before, at)
        raw = [row for row in rows for _ in range(1 + (self.random.random() < _TWICE))]
        self.random.shuffle(raw)
        reports, malformed = parse_reports(raw, at=at, namespace=uuid4)
        with self.bench.transaction() as connection:
            record_reports(connection, reports, malformed, raw=raw, limits=LIMITS, at=at, actor=SYSTEM)
        with self.bench.transaction() as connection:
            while post_batch(connection, at=at).entries:
                pass

    def _send(self, at: datetime, *, whole: bool) -> None:
        """Send the due reports, repeatedly and perhaps not all; receive the meter's errors, and react to them."""
        for _ in range(_ROUNDS_MAX if whole else 2):
            time_passes(self.bench)
            self.bench.send(pause_after=lambda _: timedelta(0))
            self._complain(at)
            if whole and not self.bench.rows("SELECT 1 FROM meter_report WHERE state IN ('pending', 'parked') LIMIT 1"):
                return

    def _complain(self, at: datetime) -> None:
        bench = self.bench
        for event_id in bench.world.thin_events():
            if event_id in self._complaints:
                continue
            self._complaints.add(event_id)
            self.result.injected["told later"] += 1
            handle = partial(handle_meter_errors, bench.transaction, bench.stripe, event_id, at=at)
            for _ in range(1 + (self.random.random() < _TWICE)):
                self._insist(handle)
        for row in bench.rows("SELECT DISTINCT attribution_id FROM meter_report WHERE state = 'parked'"):
            with bench.transaction() as connection:
                release_account(connection, AttributionId(row.attribution_id), at=at, actor=SYSTEM)

    def _receive(self, at: datetime, *, whole: bool) -> None:
        """Receive Stripe's events: some never, some twice, some late, in any order."""
        with self.bench.world.server.simulator.world() as world:
            events = [event for event in world.store.scan("event", oldest_first=True) if event["id"] not in self._seen]
        self._seen |= {event["id"] for event in events}
        due = [event for when, event in self._late if when <= at or whole]
        self._late = [each for each in self._late if each[0] > at and not whole]
        for event in events:
            if self.random.random() < _DROPPED:
                self.result.injected["webhook never came"] += 1
            elif self.random.random() < _LATE and not whole:
                self.result.injected["webhook late"] += 1
                self._late.append((at + timedelta(days=self.random.randrange(1, 5)), event))
            else:
                due.append(event)
            if self.random.random() < _TWICE:
                self.result.injected["webhook twice"] += 1
                self._late.append((at + HOUR, event))
        self.random.shuffle(due)
        for event in due:
            arrived = parse_event(event["id"], json.dumps(event))
            with self.bench.transaction() as connection:
                inbox.store_event(connection, arrived)

    def _reconcile(self, at: datetime) -> None:
        """Run the job until it finds nothing more."""
        for _ in range(_ROUNDS_MAX):
            time_passes(self.bench)
            done = self._insist(lambda: reconcile_invoices(self.bench.context(at)))
            self.result.differences += [f"{what}: {reason}" for what, reason in done.failed]
            if done.finished and not done.retried and not done.entries:
                return
        self.result.differences.append(f"{at}: invoices are never reconciled")

    def _compare(self, at: datetime) -> None:
        """Compare the billed amounts with the usage, and both with the ledger."""
        bench, result = self.bench, self.result
        used = used_cents(self.sessions)
        for account in self.accounts:
            billed = bench.world.billed_credits(self.customers[account])
            wanted = [Decimal(-(-used[account] // 100))] if used[account] > 0 else []
            entries = bench.invoice_entries(account)
            result.invoices += len(billed)
            result.credits += int(sum(billed))
            self._differ(f"{account}: used, billed", wanted, billed)
            self._differ(f"{account}: billed, booked", [-100 * quantity for quantity in billed], entries)
        once = {
            "customers": len(bench.world.customers()),
            "subscriptions": len(bench.world.subscriptions()),
            "customers stored": bench.rows("SELECT count(*) FROM stripe_customer")[0][0],
            "subscriptions stored": bench.rows("SELECT count(*) FROM stripe_subscription")[0][0],
            "subscriptions noted": bench.rows("SELECT count(*) FROM audit WHERE action = 'stripe_subscription.create'")[
                0
            ][0],
        }
        self._differ("once an account", dict.fromkeys(once, len(self.accounts)), once)
        known = bench.rows("SELECT count(*) FROM stripe_invoice")[0][0]
        self._differ("invoices known", len(bench.world.invoices()), known)
        verdict = bench.verified(at)
        if not verdict.clean:
            result.differences.append(f"verify: {verdict}")
        question = Question(at=at, event_name=EVENT_NAME, lag=HOUR, actor=SYSTEM, settled_for=timedelta(0))
        drifts = report_drift(bench.transaction, bench.stripe, question, limit=100_000).drifts
        result.differences += [f"drift: {drift}" for drift in drifts]

    def _differ(self, what: str, wanted: object, found: object) -> None:
        if wanted != found:
            self.result.differences.append(f"{what}: {wanted} is not {found}")


@contextmanager
def installation() -> Iterator[Bench]:
    """A separate database and simulator."""
    with tempfile.TemporaryDirectory() as directory, running_servers(Path(directory), os.environ) as servers:
        url = servers.database_url.replace("postgresql://", "postgresql+psycopg://")
        migrate.upgrade(url)
        database = Database(url)
        with database.transaction() as connection:
            publish_prices(connection, PRICES, at=START, actor=SYSTEM)
        with stripe_world(BEGIN) as world:
            yield Bench(database=database, world=world, stripe=world.gateway())
        database.dispose()


def main() -> int:
    """Run it with the arguments; return 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--accounts", type=int, default=None, help="so many accounts with the most sessions; else all")
    parser.add_argument("--tick-hours", type=int, default=6)
    asked = parser.parse_args()
    configure_logging("ERROR")
    with installation() as bench:
        month = Month(bench, sessions_of_month(asked.accounts), seed=asked.seed)
        result = month.live(tick=timedelta(hours=asked.tick_hours))
    sys.stdout.write("\n".join(result.lines()) + "\n")
    return int(bool(result.differences))


if __name__ == "__main__":
    sys.exit(main())

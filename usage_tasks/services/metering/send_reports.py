"""Send meter reports to Stripe: claim a few with a lease that outlasts their calls, call, settle, claim the next.

Any number of workers and threads may do so at once. No transaction is open during a call, and the database knows the
identifier before Stripe does. A crash after the call has the lease end and the same identifier sent again, which
Stripe refuses as a duplicate, or, a day later, counts as the same value at the same instant.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import (
    AccessDeniedError,
    NotAdmittedError,
    PermanentError,
    RetryableError,
    TooEarlyError,
    TooOldError,
)
from usage_tasks.domain.meter_timestamps import wait_until_taken
from usage_tasks.domain.payments import MeterEvent
from usage_tasks.domain.retries import backoff
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.metering import queue
from usage_tasks.storage.metering.queue import EARLY, ClaimedReport, ClaimSettlement, ReportOutcome
from usage_tasks.stripe_gateway.protocol import StripeGateway

CLAIM_LIMIT: Final = 4
LEASE: Final = timedelta(seconds=90)
"""Longer than CLAIM_LIMIT calls that each wait for their turn (10 s) and then run into their time-outs (10 s)."""

PARKED_IN_A_ROW_MAX: Final = 20
"""So many refusals one after the other are hardly the accounts' fault: the run stops, and looks at the set-up first."""

NAP_MAX: Final = timedelta(seconds=30)
"""A thread that found no turn sleeps for so long at most; a longer pause ends the run."""

PAUSE_FIRST: Final = timedelta(seconds=2)
PAUSE_LEAST: Final = timedelta(milliseconds=200)
"""The pause between two looks at the reports that this run postponed: a due report may be barred, and unclaimed."""

PAUSE_EARLY: Final = timedelta(minutes=1)

_ACTOR: Final = Actor("service:billing.send_meter_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The result of a run of sending: accepted by Stripe, postponed (`retried` times), parked.

    `waiting` counts postponed reports that are still unsent at the end. `halted` is the reason if the run stopped
    early; `more` is True if its limit or time ended it. `early` reports wait until Stripe's clock, `behind_seconds`
    behind the latest of them, has come near enough; `dropped` ones are too old for it: the next report includes their
    usage.
    """

    accepted: int
    retried: int
    parked: int
    waiting: int = 0
    halted: str | None = None
    more: bool = False
    early: int = 0
    dropped: int = 0
    behind_seconds: float | None = None


def pause_after(attempts: int) -> timedelta:
    """How long a report waits after so many attempts: 2 s, doubling up to ten minutes."""
    return backoff(attempts, first=PAUSE_FIRST)


def send_reports(
    transaction: Transaction,
    stripe: StripeGateway,
    *,
    limit: int,
    threads: int = 1,
    patience: timedelta = timedelta(0),
    longest: timedelta = timedelta(hours=1),
    pause_after: Callable[[int], timedelta] = pause_after,
) -> Sent:
    """Send up to about `limit` due reports, the earliest due first. A report that fails delays no other account.

    A report that fails for now is postponed by `pause_after(attempts)`. The run waits for reports that are due again
    within `patience`, and claims nothing more once `longest` is over.
    """
    run = _Run(transaction, stripe, limit=limit, longest=longest, pause_after=pause_after)
    while True:
        run.send_due(threads)
        pause = run.due_again_in()
        if pause is None or pause > patience or run.is_over():
            return run.sent()
        time.sleep(pause.total_seconds())


class _StripeClock:
    """Stripe's clock as a refusal of this run showed it. Without one nothing is known, and every report is tried."""

    def __init__(self) -> None:
        self._shown: tuple[datetime, float] | None = None
        self.behind = timedelta(0)

    def now(self) -> datetime | None:
        """Return the time that this clock shows."""
        return None if self._shown is None else self._shown[0] + timedelta(seconds=time.monotonic() - self._shown[1])

    def show(self, stripe_at: datetime | None, refused: datetime) -> None:
        """Remember what it showed when it was too far behind a timestamp."""
        if stripe_at is not None:
            self._shown = (stripe_at, time.monotonic())
            self.behind = max(self.behind, refused - stripe_at)

    def wait_for(self, as_of: datetime) -> timedelta:
        """How long a report would be refused for its timestamp; zero where it had better be tried."""
        now = self.now()
        return timedelta(0) if now is None else wait_until_taken(as_of, stripe_at=now)


class _Run:
    """One run of sending, by one thread or several; its counts are all that they share."""

    def __init__(
        self,
        transaction: Transaction,
        stripe: StripeGateway,
        *,
        limit: int,
        longest: timedelta,
        pause_after: Callable[[int], timedelta],
    ) -> None:
        self._transaction, self._stripe, self._limit, self._pause_after = transaction, stripe, limit, pause_after
        self._gives_up_at = time.monotonic() + longest.total_seconds()
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(ReportOutcome, 0)
        self._parked_in_a_row = 0
        self._put_off: set[str] = set()
        self._clock = _StripeClock()
        self._halted: str | None = None

    def send_due(self, threads: int) -> None:
        """Send until nothing is due. A full claim shows that starting threads is worth it.

        A thread that finds nothing may have met others at the same rows: only a single thread finds the true end.
        """
        while claimed := self._exchange(()):
            if len(claimed) < CLAIM_LIMIT or threads == 1:
                self._send_from(claimed)
                continue
            with ThreadPoolExecutor(threads, thread_name_prefix="stripe") as pool:
                lanes = [pool.submit(self._send_from, claimed)]
                lanes += [pool.submit(self._send_due) for _ in range(threads - 1)]
                for lane in lanes:
                    lane.result()

    def _send_due(self) -> None:
        self._send_from(self._exchange(()))

    def _send_from(self, claimed: Sequence[ClaimedReport]) -> None:
        """Send what is claimed, and what is claimed after it."""
        while claimed:
            claimed = self._exchange([self._send(report) for report in claimed])

    def _exchange(self, settlements: Sequence[ClaimSettlement]) -> Sequence[ClaimedReport]:
        """Settle what was sent and claim the next, in one transaction; who found no turn sleeps before it claims."""
        with self._lock:
            self._count(settlements)
        naps = [each.after.total_seconds() for each in settlements if each.outcome is ReportOutcome.UNSENT]
        nap = max(naps, default=0.0)
        may_claim = not nap and not self.is_over()
        if not settlements and not may_claim:
            return ()
        with self._transaction() as connection:
            if settlements:
                queue.settle_reports(connection, settlements, actor=_ACTOR)
            claimed = queue.claim_reports(connection, limit=CLAIM_LIMIT, lease=LEASE) if may_claim else ()
        if not nap:
            return claimed
        time.sleep(nap)
        return self._exchange(())

    def _send(self, report: ClaimedReport) -> ClaimSettlement:
        if self._halted is not None:
            return ClaimSettlement(report=report, outcome=ReportOutcome.UNSENT)
        if after := self._clock.wait_for(report.as_of):
            error = f"{EARLY}by Stripe's clock"
            return ClaimSettlement(report=report, outcome=ReportOutcome.EARLY, error=error, after=after)
        try:
            self._stripe.send_meter_event(_event(report))
        except RetryableError as error:
            return self._put_off_by(report, error)
        except PermanentError as error:
            return self._refused_by(report, error)
        return ClaimSettlement(report=report, outcome=ReportOutcome.ACCEPTED)

    def _put_off_by(self, report: ClaimedReport, error: RetryableError) -> ClaimSettlement:
        if isinstance(error, NotAdmittedError):
            return self._unsent(report, error, after=_nap(error))
        if isinstance(error, TooEarlyError):
            return self._put_off_early(report, error)
        after = max(self._pause_after(report.attempts), error.retry_after or timedelta(0))
        return ClaimSettlement(report=report, outcome=ReportOutcome.RETRY, error=str(error), after=after)

    def _refused_by(self, report: ClaimedReport, error: PermanentError) -> ClaimSettlement:
        if isinstance(error, AccessDeniedError):
            return self._unsent(report, error, after=timedelta(0))
        outcome = ReportOutcome.DROPPED if isinstance(error, TooOldError) else ReportOutcome.PARKED
        return ClaimSettlement(report=report, outcome=outcome, error=str(error))

    def _unsent(
        self, report: ClaimedReport, error: NotAdmittedError | AccessDeniedError, *, after: timedelta
    ) -> ClaimSettlement:
        """Give a claim back: no call was made for it, or none may be. Without a nap the run had better stop."""
        if not after:
            self._halted = str(error)
        return ClaimSettlement(report=report, outcome=ReportOutcome.UNSENT, error=str(error), after=after)

    def _put_off_early(self, report: ClaimedReport, error: TooEarlyError) -> ClaimSettlement:
        """Have a report wait for Stripe's clock. Its account is not at fault, so it is never parked for that."""
        self._clock.show(error.remote_at, report.as_of)
        # Where the answer's own clock would have taken it, another machine's of Stripe's did not: ask that again soon.
        after = wait_until_taken(report.as_of, stripe_at=error.remote_at) or PAUSE_EARLY
        return ClaimSettlement(
            report=report, outcome=ReportOutcome.EARLY, error=f"{EARLY}{error}", after=after, renewed=True
        )

    def _count(self, settlements: Sequence[ClaimSettlement]) -> None:
        for each in settlements:
            self._counts[each.outcome] += 1
            if each.outcome is ReportOutcome.RETRY:
                self._put_off.add(each.report.identifier)
            elif each.outcome is not ReportOutcome.UNSENT:
                self._put_off.discard(each.report.identifier)
                self._parked_in_a_row = self._parked_by(each.outcome)
        if self._parked_in_a_row >= PARKED_IN_A_ROW_MAX:
            self._halted = f"{self._parked_in_a_row} accounts were refused one after the other"

    def _parked_by(self, outcome: ReportOutcome) -> int:
        """Return how many were parked in a row. A wrong clock does not count: it is no sign of a wrong set-up."""
        if outcome in {ReportOutcome.EARLY, ReportOutcome.DROPPED}:
            return self._parked_in_a_row
        return self._parked_in_a_row + 1 if outcome is ReportOutcome.PARKED else 0

    def is_over(self) -> bool:
        """Return True if no more may be claimed."""
        return self._halted is not None or self._has_more()

    def _has_more(self) -> bool:
        handled = sum(count for outcome, count in self._counts.items() if outcome is not ReportOutcome.UNSENT)
        return handled >= self._limit or time.monotonic() >= self._gives_up_at

    def due_again_in(self) -> timedelta | None:
        """Return the time until the first report that this run postponed is due, or None.

        The table decides: another run may have sent it meanwhile, or a newer quantity may have replaced it.
        """
        if not self._put_off:
            return None
        with self._transaction() as connection:
            waiting = queue.list_waiting(connection, self._put_off)
        self._put_off &= waiting.keys()
        return max(PAUSE_LEAST, min(waiting.values())) if waiting else None

    def sent(self) -> Sent:
        """The counts by now."""
        return Sent(
            accepted=self._counts[ReportOutcome.ACCEPTED],
            retried=self._counts[ReportOutcome.RETRY],
            parked=self._counts[ReportOutcome.PARKED],
            waiting=len(self._put_off),
            halted=self._halted,
            more=self._halted is None and self._has_more(),
            early=self._counts[ReportOutcome.EARLY],
            dropped=self._counts[ReportOutcome.DROPPED],
            behind_seconds=self._clock.behind.total_seconds() or None,
        )


def _nap(error: NotAdmittedError) -> timedelta:
    """Return how long a thread sleeps that found no turn while others call; zero if the run should stop."""
    if not error.busy or error.retry_after is None:
        return timedelta(0)
    return error.retry_after if error.retry_after <= NAP_MAX else timedelta(0)


def _event(report: ClaimedReport) -> MeterEvent:
    return MeterEvent(
        identifier=report.identifier,
        customer_id=report.customer_id,
        quantity=report.quantity,
        as_of=report.as_of,
    )

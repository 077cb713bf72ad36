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
from datetime import timedelta
from typing import Final

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import AccessDeniedError, NotAdmittedError, PermanentError, RetryableError
from usage_tasks.domain.payments import MeterEvent
from usage_tasks.services.metering.decide_reports import backoff
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.metering import queue
from usage_tasks.storage.metering.queue import ClaimedReport, Outcome, Settlement
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
"""Between two looks at what this run put off: what is due may be barred, and be claimed by nobody."""

_ACTOR: Final = Actor("service:billing.send_meter_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """How a run of sending ended: accepted by Stripe, put off (`retried` times), set aside.

    `waiting` counts reports that were put off and are still to be sent at the end; `halted` says why the run stopped
    early; `more` that its limit or time did.
    """

    accepted: int
    retried: int
    parked: int
    waiting: int = 0
    halted: str | None = None
    more: bool = False


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
    """Send up to about `limit` reports that are due, those due first; one that fails holds up no other account.

    What fails for now is put off by `pause_after` so many attempts; for what is due again within `patience` the run
    waits. It claims nothing more once `longest` is over.
    """
    run = _Run(transaction, stripe, limit=limit, longest=longest, pause_after=pause_after)
    while True:
        run.send_due(threads)
        pause = run.due_again_in()
        if pause is None or pause > patience or run.is_over():
            return run.sent()
        time.sleep(pause.total_seconds())


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
        self._counts = dict.fromkeys(Outcome, 0)
        self._parked_in_a_row = 0
        self._put_off: set[str] = set()
        self._halted: str | None = None

    def send_due(self, threads: int) -> None:
        """Send until nothing is due; a claim that is full says that it is worth starting threads.

        A thread that finds nothing may have met others at the same rows: the end is what one alone finds.
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

    def _exchange(self, settlements: Sequence[Settlement]) -> Sequence[ClaimedReport]:
        """Settle what was sent and claim the next, in one transaction; who found no turn sleeps before it claims."""
        with self._lock:
            self._count(settlements)
        naps = [each.after.total_seconds() for each in settlements if each.outcome is Outcome.UNSENT]
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

    def _send(self, report: ClaimedReport) -> Settlement:
        if self._halted is not None:
            return Settlement(report=report, outcome=Outcome.UNSENT)
        try:
            self._stripe.send_meter_event(_event(report))
        except (NotAdmittedError, AccessDeniedError) as error:
            after = _nap(error)
            if not after:
                self._halted = str(error)
            return Settlement(report=report, outcome=Outcome.UNSENT, error=str(error), after=after)
        except RetryableError as error:
            after = max(self._pause_after(report.attempts), error.retry_after or timedelta(0))
            return Settlement(report=report, outcome=Outcome.RETRY, error=str(error), after=after)
        except PermanentError as error:
            return Settlement(report=report, outcome=Outcome.PARKED, error=str(error))
        return Settlement(report=report, outcome=Outcome.ACCEPTED)

    def _count(self, settlements: Sequence[Settlement]) -> None:
        for each in settlements:
            self._counts[each.outcome] += 1
            if each.outcome is Outcome.RETRY:
                self._put_off.add(each.report.identifier)
            elif each.outcome is not Outcome.UNSENT:
                self._put_off.discard(each.report.identifier)
                self._parked_in_a_row = self._parked_in_a_row + 1 if each.outcome is Outcome.PARKED else 0
        if self._parked_in_a_row >= PARKED_IN_A_ROW_MAX:
            self._halted = f"{self._parked_in_a_row} accounts were refused one after the other"

    def is_over(self) -> bool:
        """Tell whether no more may be claimed."""
        return self._halted is not None or self._has_more()

    def _has_more(self) -> bool:
        handled = sum(count for outcome, count in self._counts.items() if outcome is not Outcome.UNSENT)
        return handled >= self._limit or time.monotonic() >= self._gives_up_at

    def due_again_in(self) -> timedelta | None:
        """How long until the first report that this run put off is due; None without one.

        The table knows: another run may have sent it meanwhile, or a newer quantity have taken its place.
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
            accepted=self._counts[Outcome.ACCEPTED],
            retried=self._counts[Outcome.RETRY],
            parked=self._counts[Outcome.PARKED],
            waiting=len(self._put_off),
            halted=self._halted,
            more=self._halted is None and self._has_more(),
        )


def _nap(error: NotAdmittedError | AccessDeniedError) -> timedelta:
    """How long a thread sleeps that found no turn while others are calling; nothing where the run had better stop."""
    if not isinstance(error, NotAdmittedError) or not error.busy or error.retry_after is None:
        return timedelta(0)
    return error.retry_after if error.retry_after <= NAP_MAX else timedelta(0)


def _event(report: ClaimedReport) -> MeterEvent:
    return MeterEvent(
        identifier=report.identifier,
        customer_id=report.customer_id,
        quantity=report.quantity,
        as_of=report.as_of,
    )

"""Compare per account the ledger, the quantities sent, and the count of Stripe's meter; repair on request.

A Stripe service: a page of accounts is read in one transaction, Stripe is asked outside of any, and an account is
locked and read again before a repair. Asking changes nothing. The only repair is to send a report again, or to report
owed usage, which the next sync would do too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final, TypeAlias

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.drift import Drift, DriftKind, MeterStanding, window_of
from usage_tasks.domain.errors import AccessDeniedError, MisconfiguredError, NotAdmittedError, PermanentError
from usage_tasks.domain.meter_errors import RESENDS_MAX, MeterErrorVerdict
from usage_tasks.services.metering.decide_reports import report_quantities
from usage_tasks.services.metering.meter_errors import note
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.metering import drift as standings
from usage_tasks.storage.metering import queue
from usage_tasks.storage.metering.decide import Owed, list_owed
from usage_tasks.stripe_gateway.protocol import StripeGateway

PAGE: Final = 200
SETTLED_FOR: Final = timedelta(minutes=15)
"""Stripe's summaries follow its events after a while."""


Answer: TypeAlias = Decimal | str | None
"""The count of Stripe's meter, the reason why there is none, or None if there is nothing to ask yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The result of a drift report: accounts compared, accounts whose latest report is too fresh, accounts with drift.

    `repaired` counts reports sent again or added; `after` is the last account of a report that was cut short.
    """

    accounts: int
    unsettled: int
    drifts: Sequence[Drift]
    repaired: int
    after: AttributionId | None = None

    def and_then(self, page: "Compared", *, after: AttributionId) -> "Compared":
        """Add what came of the next page, which ended with an account."""
        return Compared(
            accounts=self.accounts + page.accounts,
            unsettled=self.unsettled + page.unsettled,
            drifts=[*self.drifts, *page.drifts],
            repaired=self.repaired + page.repaired,
            after=after,
        )

    def by_kind(self) -> Mapping[str, int]:
        """How many accounts are astray, by what differs."""
        return Counter(str(each.kind) for each in self.drifts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The scope of a drift report: the instant, whether to repair, the time to settle, and the accounts.

    `lag`: usage owed for less time than this may not have been synced yet. `doubted`: only accounts of reports that
    Stripe may not have counted.
    """

    at: datetime
    event_name: str
    lag: timedelta
    actor: Actor
    fix: bool = False
    doubted: bool = False
    settled_for: timedelta = SETTLED_FOR


def report_drift(
    transaction: Transaction,
    stripe: StripeGateway,
    question: Question,
    *,
    after: AttributionId | str = "",
    limit: int,
    threads: int = 1,
) -> Compared:
    """Compare up to `limit` accounts, by name, from behind one of them, a page at a time."""
    total = Compared(accounts=0, unsettled=0, drifts=[], repaired=0)
    meter_id = ""
    with ThreadPoolExecutor(threads, thread_name_prefix="stripe") as pool:
        while total.accounts < limit:
            with transaction() as connection:
                page = standings.list_standings(
                    connection,
                    at=question.at,
                    settled_for=question.settled_for,
                    doubted=question.doubted,
                    after=after,
                    limit=min(PAGE, limit - total.accounts),
                )
                owed = _list_owed(connection, page, question)
            if not page:
                return replace(total, after=None)
            meter_id = meter_id or _get_meter(stripe, question.event_name)
            answers = list(pool.map(partial(_ask, stripe, meter_id, at=question.at), page))
            done = _compare(transaction, page, owed, answers, question)
            after = page[-1].attribution_id
            total = total.and_then(done, after=page[-1].attribution_id)
    return total


def _compare(
    transaction: Transaction,
    page: Sequence[MeterStanding],
    owed: Mapping[AttributionId, "_Owed"],
    answers: Sequence[Answer],
    question: Question,
) -> Compared:
    """Judge a page of accounts by what Stripe answered, and repair what may be."""
    drifts: list[Drift] = []
    repaired = 0
    for standing, answer in zip(page, answers, strict=True):
        drift = _judge(standing, owed[standing.attribution_id], answer)
        if drift is not None:
            drifts.append(drift)
        if question.fix:
            repaired += _repair(transaction, standing, answer, drift, question)
    unsettled = sum(answer is None for answer in answers)
    return Compared(accounts=len(page), unsettled=unsettled, drifts=drifts, repaired=repaired)


@dataclass(frozen=True, slots=True)
class _Owed:
    """The usage owed now, and whether it has been owed for longer than a sync takes."""

    now: Owed
    overdue: bool


def _list_owed(
    connection: Connection, page: Sequence[MeterStanding], question: Question
) -> Mapping[AttributionId, _Owed]:
    accounts = [standing.attribution_id for standing in page]
    at = question.at.replace(microsecond=0)
    now, before = (list_owed(connection, accounts, at=moment) for moment in (at, at - question.lag))
    nothing = Owed(ledger=0, told=0)
    return {
        account: _Owed(
            now=(latest := now.get(account, nothing)), overdue=_is_overdue(before.get(account, nothing), latest)
        )
        for account in accounts
    }


def _is_overdue(before: Owed, now: Owed) -> bool:
    """Return True if usage was owed before, nothing was reported since, and it is still owed."""
    return before.ledger != before.told and now.ledger != now.told and now.told == before.told


def _get_meter(stripe: StripeGateway, event_name: str) -> str:
    meter = stripe.find_meter(event_name)
    if meter is None:
        raise MisconfiguredError(f"stripeMeterEventName: no meter takes events of the name {event_name!r}")
    return meter.meter_id


def _ask(stripe: StripeGateway, meter_id: str, standing: MeterStanding, *, at: datetime) -> Answer:
    """Return the meter's count in a standing's window, the reason why there is none, or None if it is too early."""
    window = window_of(standing, at=at)
    if window is None or standing.customer_id is None:
        return None
    try:
        return stripe.get_metered_quantity(meter_id, standing.customer_id, start=window[0], end=window[1])
    except (NotAdmittedError, AccessDeniedError):
        raise
    except PermanentError as error:
        return str(error)


def _judge(standing: MeterStanding, owed: _Owed, answer: Answer) -> Drift | None:
    """Return the drift of an account, the most important kind if there are several, or None."""
    kind, stripe, reason = None, None, ""
    if isinstance(answer, Decimal) and answer != standing.quantity:
        kind, stripe = DriftKind.METER, answer
    elif standing.parked:
        kind = DriftKind.PARKED
    elif isinstance(answer, str):
        kind, reason = DriftKind.UNREADABLE, answer
    elif not standing.subscribed and owed.now.ledger:
        kind = DriftKind.UNBILLABLE
    elif standing.subscribed and not standing.ending and owed.overdue:
        kind = DriftKind.UNREPORTED
    if kind is None:
        return None
    sent = standing.quantity if kind is DriftKind.METER else owed.now.told
    return Drift(
        attribution_id=standing.attribution_id,
        kind=kind,
        ledger=owed.now.ledger,
        sent=sent,
        stripe=stripe,
        reason=reason,
    )


def _repair(
    transaction: Transaction, standing: MeterStanding, answer: Answer, drift: Drift | None, question: Question
) -> int:
    """Send again a report that Stripe did not count, or report owed usage; clear the doubts about reports looked up."""
    kind = None if drift is None else drift.kind
    doubted = question.doubted and isinstance(answer, Decimal) and standing.as_of is not None
    lost = kind is DriftKind.METER and standing.latest
    if not doubted and not lost and kind is not DriftKind.UNREPORTED:
        return 0
    with transaction() as connection:
        repaired = _send_anew(connection, standing, question) if lost else 0
        if kind is DriftKind.UNREPORTED:
            repaired += report_quantities(connection, at=question.at, only=standing.attribution_id)
        if doubted and standing.as_of is not None:
            queue.clear_doubts(connection, standing.attribution_id, until=standing.as_of)
    return repaired


def _send_anew(connection: Connection, standing: MeterStanding, question: Question) -> int:
    reason = "stripe's meter did not count it"
    for report in queue.lock_by_identifiers(connection, [standing.identifier or ""]):
        if report.state != "accepted" or report.overtaken:
            continue
        if report.resends >= RESENDS_MAX:
            queue.park_report(connection, report, reason=f"{reason}, sent anew or not", actor=question.actor)
            continue
        if queue.send_anew(connection, report, after=timedelta(0), reason=reason):
            note(connection, [report], MeterErrorVerdict.SEND_ANEW, reason=reason, at=question.at, actor=question.actor)
            return 1
    return 0

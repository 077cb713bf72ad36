"""Handle the errors that a meter reports later, in a thin event: send again, park or drop the reports concerned.

Stripe's report names ten events of each error by their idempotency key, which is the identifier that we stored. Where
there were more, every report that Stripe took in that time is doubted until its summary has been read (drift.py).
Taken up twice, nothing happens twice: a report that was dealt with has another identifier or state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.meter_errors import MeterErrorVerdict, judge_meter_error
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.metering import queue
from usage_tasks.storage.metering.queue import SentReport
from usage_tasks.storage.operations import audit
from usage_tasks.stripe_gateway.protocol import StripeGateway

ACTOR: Final = Actor("service:billing.meter_errors")
_SLACK: Final = timedelta(minutes=5)
"""Stripe's clock and ours differ, and a report is settled a little after its call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterErrorsHandled:
    """The outcome of the reports: sent again, parked, dropped, or doubted until they are looked up.

    `unknown` counts events that are not, or no longer, ours.
    """

    sent_anew: int
    parked: int
    dropped: int
    doubted: int
    unknown: int


def handle_meter_errors(
    transaction: Transaction, stripe: StripeGateway, event_id: str, *, at: datetime
) -> MeterErrorsHandled:
    """Fetch a thin event of the types v1.billing.meter.* and deal with the reports that it is about."""
    summary = stripe.get_meter_errors(event_id)
    counts = dict.fromkeys(MeterErrorVerdict, 0)
    code_of = {identifier: each.code for each in summary.errors for identifier in each.identifiers}
    with transaction() as connection:
        found = queue.lock_by_identifiers(connection, sorted(code_of))
        for report in found:
            counts[deal_with(connection, report, code_of[report.identifier], at=at, actor=ACTOR)] += 1
        doubted = 0
        if any(each.count > len(each.identifiers) for each in summary.errors):
            doubted = queue.doubt_accepted(connection, since=summary.starts_at - _SLACK, until=summary.ends_at + _SLACK)
    return MeterErrorsHandled(
        sent_anew=counts[MeterErrorVerdict.SEND_ANEW],
        parked=counts[MeterErrorVerdict.PARK],
        dropped=counts[MeterErrorVerdict.DROP],
        doubted=doubted,
        unknown=len(code_of) - len(found),
    )


def deal_with(
    connection: Connection, report: SentReport, code: str, *, at: datetime, actor: Actor
) -> MeterErrorVerdict:
    """Handle a report that failed with a code of Stripe's by the domain's rule, and note it."""
    verdict, after = judge_meter_error(code, resends=report.resends)
    reason = f"stripe could not count it: {code}"
    if report.overtaken:
        verdict, reason = MeterErrorVerdict.DROP, f"{reason}; overtaken by a later one"
    match verdict:
        case MeterErrorVerdict.SEND_ANEW:
            queue.send_anew(connection, report, after=after, reason=reason)
        case MeterErrorVerdict.DROP:
            queue.drop_report(connection, report, reason=reason)
        case MeterErrorVerdict.PARK:
            # Parking notes and announces itself.
            queue.park_report(connection, report, reason=reason, actor=actor)
            return verdict
        case _:
            assert_never(verdict)
    note(connection, [report], verdict, reason=reason, at=at, actor=actor)
    return verdict


def note(
    connection: Connection, reports: Sequence[SentReport], verdict: str, *, reason: str, at: datetime, actor: Actor
) -> None:
    """Leave an audit row for each report that was touched."""
    for report in reports:
        details = {"as_of": report.as_of.isoformat(), "quantity": report.quantity, "reason": reason}
        audit.append_audit(
            connection,
            at=at,
            actor=actor,
            action=f"meter_report.{verdict}",
            attribution_id=report.attribution_id,
            details=details,
        )

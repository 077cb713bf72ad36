"""Bring Stripe's meter to the ledger's balance: decide reports, then send them.

`report_quantities` is a ledger service: one statement decides every account's report. `send_reports` is a Stripe
service: it claims a few reports with a lease that outlasts their time-outs, calls, and settles each.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.payments import MeterEvent
from usage_tasks.services import settle
from usage_tasks.services.reset import reset_account
from usage_tasks.storage import cost_centers, meter_reports
from usage_tasks.storage.meter_reports import ClaimedReport
from usage_tasks.storage.plans import Plan
from usage_tasks.stripe_gateway.protocol import StripeGateway

Transaction = Callable[[], AbstractContextManager[Connection]]

CLAIM_LIMIT: Final = 4
LEASE: Final = timedelta(seconds=60)
"""Longer than CLAIM_LIMIT calls that each run into their time-outs (10 s), so that no two workers send one report."""

_ACTOR: Final = Actor("service:billing.sync")

_FAILURES_IN_A_ROW_MAX: Final = 3
"""So many time-outs one after the other mean that Stripe is away: the next run tries again."""

_RETRY_FIRST: Final = timedelta(seconds=5)
_RETRY_MAX: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """How a run of sending ended: accepted by Stripe, put off, set aside."""

    accepted: int
    retried: int
    parked: int


def report_quantities(connection: Connection, *, at: datetime, only: AttributionId | None = None) -> int:
    """Add a meter report for every paying account whose whole credits changed; return how many."""
    at = at.replace(microsecond=0)
    return meter_reports.report_changes(connection, at=at, as_of=at, only=only)


def plan_quantities(connection: Connection, *, at: datetime) -> Plan:
    """Answer the meter reports that `report_quantities` would add; nothing is written."""
    at = at.replace(microsecond=0)
    return meter_reports.plan_changes(connection, at=at, as_of=at)


def report_closing_quantity(connection: Connection, attribution_id: AttributionId, *, period_end: datetime) -> int:
    """Add the report that closes a period: the balance at its end, dated just inside it; 0 where that is known."""
    settle_period(connection, attribution_id, period_end=period_end, told=False)
    return meter_reports.report_changes(
        connection, at=period_end, as_of=period_end - timedelta(seconds=1), closing=True, only=attribution_id
    )


def settle_period(
    connection: Connection, attribution_id: AttributionId, *, period_end: datetime, told: bool
) -> CostCenter | None:
    """Hold an account and let its grants pay what is open when a period of Stripe's ends; None for an unknown account.

    `told`: what the period was told is billed by now, and not the grants' to pay. Twice pays nothing twice; an invoice
    in the middle of a cycle ends none.
    """
    if cost_centers.find_current(connection, attribution_id) is None:
        return None
    # Always the cost center before the balance, as resets and switches do: no two wait for one another.
    cost_centers.lock_current(connection, attribution_id)
    reset_account(connection, attribution_id, at=period_end, actor=_ACTOR)
    current = cost_centers.get_current(connection, attribution_id)
    if current.billing_strategy is BillingStrategy.STRIPE and current.next_billing_at <= period_end:
        if told:
            settle.settle_now(connection, current, at=period_end, ends_cycle=True)
        else:
            settle.settle_closing(connection, current, period_end=period_end)
    return current


def send_reports(transaction: Transaction, stripe: StripeGateway, *, limit: int) -> Sent:
    """Send up to about `limit` reports that are due, oldest first; one that fails holds up no other account."""
    accepted = retried = parked = in_a_row = 0
    while accepted + retried + parked < limit:
        with transaction() as connection:
            claimed = meter_reports.claim_reports(connection, limit=CLAIM_LIMIT, lease=LEASE)
        if not claimed:
            break
        for report in claimed:
            if in_a_row >= _FAILURES_IN_A_ROW_MAX:
                return Sent(accepted=accepted, retried=retried, parked=parked)  # the lease frees what is left
            try:
                stripe.send_meter_event(_event(report))
            except RetryableError as error:
                retried, in_a_row = retried + 1, in_a_row + 1
                with transaction() as connection:
                    meter_reports.mark_retry(connection, report, after=backoff(report.attempts), error=str(error))
            except PermanentError as error:
                parked += 1
                with transaction() as connection:
                    meter_reports.mark_parked(connection, report, error=str(error))
            else:
                accepted, in_a_row = accepted + 1, 0
                with transaction() as connection:
                    meter_reports.mark_accepted(connection, report)
    return Sent(accepted=accepted, retried=retried, parked=parked)


def backoff(attempts: int) -> timedelta:
    """How long to wait after so many attempts: doubling, capped."""
    doublings: int = min(attempts - 1, 10)
    return min(_RETRY_MAX, _RETRY_FIRST * (1 << doublings))


def _event(report: ClaimedReport) -> MeterEvent:
    return MeterEvent(
        identifier=report.identifier,
        customer_id=report.customer_id,
        quantity=report.quantity,
        as_of=report.as_of,
    )

"""Bring Stripe's meter to the ledger's balance: decide every account's report in one statement; send.py sends them."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.services.ledger import burn_grants
from usage_tasks.services.ledger.reset import reset_account
from usage_tasks.storage.ledger import cost_centers
from usage_tasks.storage.metering import decide, queue
from usage_tasks.storage.plans import Plan

_ACTOR: Final = Actor("service:billing.sync")


def report_quantities(connection: Connection, *, at: datetime, only: AttributionId | None = None) -> int:
    """Add a meter report for every paying account whose whole credits changed; return how many.

    Reports that wait for Stripe's clock are tried again with them.
    """
    at = at.replace(microsecond=0)
    queue.wake_early(connection, only=only)
    return decide.report_changes(connection, at=at, as_of=at, only=only)


def plan_quantities(connection: Connection, *, at: datetime) -> Plan:
    """Return the meter reports that `report_quantities` would add; nothing is written."""
    at = at.replace(microsecond=0)
    return decide.plan_changes(connection, at=at, as_of=at)


def report_closing_quantity(connection: Connection, attribution_id: AttributionId, *, period_end: datetime) -> int:
    """Add the report that closes a period: the balance at its end, dated just inside it; 0 if that is known."""
    settle_period(connection, attribution_id, period_end=period_end, already_sent=False)
    return decide.report_changes(
        connection, at=period_end, as_of=period_end - timedelta(seconds=1), closing=True, only=attribution_id
    )


def settle_period(
    connection: Connection, attribution_id: AttributionId, *, period_end: datetime, already_sent: bool
) -> CostCenter | None:
    """Hold an account and let its grants pay what is open when a period of Stripe's ends; None for an unknown account.

    `already_sent`: Stripe has billed the period's quantity by now, so grants do not pay it. Twice pays nothing twice;
    an invoice in the middle of a cycle ends none.
    """
    if cost_centers.find_current(connection, attribution_id) is None:
        return None
    # Always the cost center before the balance, as resets and switches do: no two wait for one another.
    cost_centers.lock_current(connection, attribution_id)
    reset_account(connection, attribution_id, at=period_end, actor=_ACTOR)
    current = cost_centers.get_current(connection, attribution_id)
    if current.billing_strategy is BillingStrategy.STRIPE and current.next_billing_at <= period_end:
        if already_sent:
            burn_grants.settle_now(connection, current, at=period_end, ends_cycle=True)
        else:
            burn_grants.settle_closing(connection, current, period_end=period_end)
    return current

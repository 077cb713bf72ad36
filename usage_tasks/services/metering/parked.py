"""Park an account that no quantity can bill, and release it once an operator has removed the reason.

How an account is subscribed is learnt from what is looked up in Stripe anyway: when an event of a subscription comes,
when one is made, and once a day. Source: docs/adr/0016.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.customers import StripeCustomer, find_obstacle
from usage_tasks.domain.meter_errors import MeterErrorVerdict
from usage_tasks.services.metering.meter_errors import note
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.metering import queue
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import customers, parked
from usage_tasks.stripe_gateway.protocol import StripeGateway

_AGE_MAX: Final = timedelta(days=34)
"""Stripe takes events up to 35 days old; the release leaves a day to send it."""

_REPORTS_MAX: Final = 1000
_ACTOR: Final = Actor("service:billing.sync")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedAccounts:
    """How many reports of the account are sent again, how many were too old, and the reason if it is parked again."""

    sent_anew: int
    dropped: int
    parked_anew: str | None = None


def park_if_unbillable(
    connection: Connection, customer: StripeCustomer, *, our_prices: frozenset[str], actor: Actor
) -> str | None:
    """Park a customer's account where one quantity can't bill it, and announce that; return the reason.

    If nothing is wrong, no account is released.
    """
    account = customers.find_account(connection, customer.customer_id)
    if account is None:
        return None
    ours = our_prices | customers.list_prices(connection, account)
    reason = find_obstacle(customer.subscriptions, ours)
    parked.put_look(connection, customer.customer_id, reason=reason, looked_at=customer.fetched_at, actor=actor)
    return reason


def release(
    transaction: Transaction,
    stripe: StripeGateway,
    account: AttributionId,
    *,
    our_prices: frozenset[str],
    at: datetime,
    actor: Actor,
) -> ReleasedAccounts:
    """Release a parked account. If it was parked for its subscription, check that, and park it again if needed."""
    with transaction() as connection:
        customer_id = parked.find_parked_customer(connection, account)
    customer = None if customer_id is None else stripe.get_customer(customer_id)
    with transaction() as connection:
        if customer is not None and parked.unpark_customer(connection, customer.customer_id):
            reason = park_if_unbillable(connection, customer, our_prices=our_prices, actor=actor)
            if reason is not None:
                return ReleasedAccounts(sent_anew=0, dropped=0, parked_anew=reason)
            audit.append_audit(
                connection,
                at=at,
                actor=actor,
                action="stripe_customer.release",
                attribution_id=account,
                details={"stripe_customer_id": customer.customer_id},
            )
        return release_account(connection, account, at=at, actor=actor)


def release_for_clock(connection: Connection, *, at: datetime) -> int:
    """Release the accounts that an older version parked for a timestamp that Stripe refused; return how many."""
    accounts = queue.list_parked_for_clock(connection, limit=_REPORTS_MAX)
    for account in accounts:
        release_account(connection, account, at=at, actor=_ACTOR)
    return len(accounts)


def release_account(
    connection: Connection, attribution_id: AttributionId, *, at: datetime, actor: Actor
) -> ReleasedAccounts:
    """Make an account's parked reports due again; do nothing if none is parked.

    A report that is overtaken or too old for Stripe is dropped: its usage is still open in the ledger, and the next
    report includes it.
    """
    sent_anew = dropped = 0
    for _ in range(_REPORTS_MAX):
        report = queue.lock_report(connection, attribution_id, state="parked")
        if report is None:
            break
        if report.overtaken or report.as_of < at - _AGE_MAX:
            reason = "overtaken by a later one" if report.overtaken else "too old when it was released"
            dropped += queue.drop_report(connection, report, reason=reason)
            verdict = MeterErrorVerdict.DROP
        else:
            sent_anew += queue.send_anew(connection, report, after=timedelta(0), reason="released")
            verdict = MeterErrorVerdict.SEND_ANEW
        note(connection, [report], verdict, reason="released", at=at, actor=actor)
    return ReleasedAccounts(sent_anew=sent_anew, dropped=dropped)

"""May an account start a session, until when can it pay for what runs, at which parts of its limit is it announced?"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, Actor
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter, SpendingLimits
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.exhaustion import LOOK_AHEAD_MAX, find_exhaustion
from usage_tasks.domain.limits import (
    EntitlementReason,
    LimitPolicy,
    check_thresholds,
    hard_limit_cents,
    judge,
    limit_cents,
    remaining_cents,
)
from usage_tasks.services.ledger.cost_center import get_cost_center
from usage_tasks.storage.ledger import balances, cost_centers
from usage_tasks.storage.limits import account_standings, bars, crossings
from usage_tasks.storage.operations import audit


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """Whether an account may start a session at an instant, and why.

    `remaining_cents` up to the limit may be negative. `exhausted_at` is the whole second at which the running
    sessions will have used it up, or None if the next cycle begins before that.
    """

    may_start: bool
    reason: EntitlementReason
    balance_cents: CreditCents
    remaining_cents: int
    spending_limit: int
    hard_limit_cents: int
    exhausted_at: datetime | None


def check_entitlement(
    connection: Connection,
    account: Account,
    *,
    policy: LimitPolicy,
    spending_limits: SpendingLimits,
    at: datetime,
    actor: Actor,
) -> Entitlement:
    """Judge an account as it stands at `at`: opened if unknown, every due reset applied first.

    A suspension and a block are those of now: what they once were is not kept.
    """
    current = get_cost_center(connection, account, limits=spending_limits, at=at, actor=actor)
    balance = balances.get_balance(connection, account.attribution_id, at=at)
    bar = bars.find_bar(connection, account)
    reason = bar or judge(balance, current.spending_limit, policy.grace)
    return Entitlement(
        may_start=reason.may_start,
        reason=reason,
        balance_cents=balance,
        remaining_cents=remaining_cents(balance, current.spending_limit),
        spending_limit=current.spending_limit,
        hard_limit_cents=hard_limit_cents(current.spending_limit, policy.grace),
        exhausted_at=find_exhaustion(
            account_standings.list_accruals(connection, account.attribution_id, at=at),
            balance=balance,
            limit_cents=limit_cents(current.spending_limit),
            at=at,
            before=_course_ends_at(current, at=at),
        ),
    )


def _course_ends_at(current: CostCenter, *, at: datetime) -> datetime:
    """A reset settles what is below the limit, so that a course ends with its cycle; when Stripe does is not known."""
    return current.next_billing_at if current.billing_strategy is BillingStrategy.OTHER else at + LOOK_AHEAD_MAX


def set_thresholds(
    connection: Connection,
    account: Account,
    *,
    thresholds: Sequence[int] | None,
    policy: LimitPolicy,
    spending_limits: SpendingLimits,
    at: datetime,
    actor: Actor,
) -> tuple[int, ...]:
    """Set the percents of its limit at which an account is announced; None restores the installation's thresholds.

    Returns the thresholds in force. Raises InvalidInputError for values that are not allowed.
    """
    chosen = None if thresholds is None else check_thresholds(thresholds)
    get_cost_center(connection, account, limits=spending_limits, at=at, actor=actor)
    cost_centers.lock_current(connection, account.attribution_id)
    held = crossings.find_thresholds(connection, account.attribution_id)
    in_force = policy.thresholds if chosen is None else chosen
    if chosen == held:
        return in_force
    if chosen is None:
        crossings.drop_thresholds(connection, account.attribution_id)
    else:
        crossings.put_thresholds(connection, account.attribution_id, chosen, actor=actor)
    audit.append_audit(
        connection,
        at=at,
        actor=actor,
        action="limit_thresholds.set",
        attribution_id=account.attribution_id,
        details={"thresholds": [held, chosen]},
    )
    return in_force

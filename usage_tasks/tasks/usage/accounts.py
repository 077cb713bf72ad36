"""`usage.*` on one account: its balance, its usage, its cost center. Ledger tasks: no network."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import StrictInt

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_attribution
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.runtime import runtime
from usage_tasks.services.directory import access
from usage_tasks.services.ledger import cost_center, read_usage
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, Credits, Moment


@task(name="usage.get_balance", time_limit=timedelta(seconds=30), needs=Role.OWNER)
def get_balance(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> read_usage.BalanceStanding:
    """Return an account's live balance at an instant, beside its limit."""
    rt = runtime()
    account = parse_attribution(attribution_id)
    who = parse_actor(actor)
    read_at = rt.instant(at, who)
    settled_at = rt.settling_instant(read_at, who)
    with rt.transaction() as connection:
        cost_center.get_cost_center(connection, account, limits=rt.spending_limits, at=settled_at, actor=who)
        return read_usage.get_standing(connection, account, at=read_at)


@task(name="usage.list", time_limit=timedelta(seconds=60), needs=Role.MEMBER)
def list_usage(
    attribution_id: Attribution,
    actor: ActorText,
    start: Moment,
    end: Moment,
    order: Literal["ascending", "descending"] = "descending",
    page: StrictInt = 1,
    per_page: StrictInt = read_usage.PER_PAGE_DEFAULT,
    at: Moment | None = None,
) -> read_usage.UsagePage:
    """List an account's usage in [start, end), drafts included; to a member of a team their own."""
    rt = runtime()
    account, who = parse_attribution(attribution_id), parse_actor(actor)
    read_at = rt.instant(at, who)
    with rt.transaction() as connection:
        return read_usage.list_usage(
            connection,
            account,
            of_user=access.find_whose_usage(connection, who, account),
            start=start,
            end=end,
            at=read_at,
            order=order,
            page=page,
            per_page=per_page,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCenterAnswer:
    """A cost center as it stands: limit in credits, the current cycle, the version for a compare-and-set."""

    attribution_id: str
    version: int
    billing_strategy: str
    spending_limit: int
    cycle_started_at: datetime
    next_billing_at: datetime


def _answer(current: CostCenter) -> CostCenterAnswer:
    return CostCenterAnswer(
        attribution_id=current.attribution_id,
        version=current.version,
        billing_strategy=current.billing_strategy.value,
        spending_limit=current.spending_limit,
        cycle_started_at=current.cycle.started_at,
        next_billing_at=current.next_billing_at,
    )


@task(name="usage.get_cost_center", time_limit=timedelta(seconds=30), needs=Role.OWNER)
def get_cost_center(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> CostCenterAnswer:
    """Return an account's cost center; opened if unknown, due resets applied first."""
    rt = runtime()
    account, who = parse_attribution(attribution_id), parse_actor(actor)
    settled_at = rt.settling_instant(rt.instant(at, who), who)
    with rt.transaction() as connection:
        current = cost_center.get_cost_center(connection, account, limits=rt.spending_limits, at=settled_at, actor=who)
        return _answer(current)


@task(name="usage.set_cost_center", time_limit=timedelta(seconds=30), needs=Role.OWNER)
def set_cost_center(
    attribution_id: Attribution,
    actor: ActorText,
    billing_strategy: Literal["stripe", "other"],
    spending_limit: Credits | None = None,
    expected_version: StrictInt | None = None,
    at: Moment | None = None,
) -> CostCenterAnswer:
    """Set an account's strategy, which may not be left out, and its limit in credits.

    Only an administrator may change an account that is, or becomes, on strategy other.
    """
    rt = runtime()
    account, strategy = parse_attribution(attribution_id), BillingStrategy(billing_strategy)
    who = parse_actor(actor)
    acted_at = rt.effective_instant(at, who)
    with rt.transaction() as connection:
        access.admit_to_set_cost_center(connection, who, account, strategy)
        return _answer(
            cost_center.set_cost_center(
                connection,
                account,
                strategy=strategy,
                spending_limit=spending_limit,
                expected_version=expected_version,
                limits=rt.spending_limits,
                at=acted_at,
                actor=who,
            )
        )

"""Open accounts, read their cost centers, change limits and strategies."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain import cost_centers as cost_center_rules
from usage_tasks.domain.accounts import Account, AccountKind, Actor, AttributionId, parse_attribution
from usage_tasks.domain.cost_centers import (
    BillingStrategy,
    CostCenter,
    SpendingLimits,
    change_limit,
    default_limit,
    new_cost_center,
    switch_strategy,
)
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError, StaleVersionError
from usage_tasks.domain.ledger import EntryKind, upgrade_key
from usage_tasks.services.ledger import burn_grants
from usage_tasks.services.ledger.reset import reset_account
from usage_tasks.storage.ledger import allowances, balances, cost_centers, entries
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import customers


def open_accounts(
    connection: Connection, accounts: Collection[AttributionId], *, limits: SpendingLimits, at: datetime, actor: Actor
) -> int:
    """Open each account that is not open yet, its first cycle starting at `at`; return how many were new.

    The first team of a user gets the allowance of an individual, once, as the directory knows them in this moment
    (docs/adr/0013). Only the transaction that opened an account claims for it, so no claim is wasted.
    """
    unknown = cost_centers.list_unknown(connection, accounts)
    if not unknown:
        return 0
    firsts = [new_cost_center(parse_attribution(account), limits, at=at) for account in unknown]
    opened = cost_centers.add_firsts(connection, firsts, actor=actor)
    teams = [account for account in opened if parse_attribution(account).kind is AccountKind.TEAM]
    if teams and (claimed := allowances.claim(connection, teams, at=at, actor=actor)):
        cost_centers.set_first_limit(connection, claimed, spending_limit=limits.for_users)
    return len(opened)


def get_cost_center(
    connection: Connection, account: Account, *, limits: SpendingLimits, at: datetime, actor: Actor
) -> CostCenter:
    """Return an account's cost center at `at`: opened if unknown, due resets and expiries of grants applied first."""
    open_accounts(connection, [account.attribution_id], limits=limits, at=at, actor=actor)
    reset_account(connection, account.attribution_id, at=at, actor=actor)
    return cost_centers.get_current(connection, account.attribution_id)


def set_cost_center(
    connection: Connection,
    account: Account,
    *,
    strategy: BillingStrategy,
    spending_limit: int | None,
    expected_version: int | None,
    limits: SpendingLimits,
    at: datetime,
    actor: Actor,
) -> CostCenter:
    """Set an account's strategy and limit, in credits. Return the version that holds now.

    A switch starts a cycle. A switch to stripe balances out the open usage, at most once a month. A switch back to
    other restores the last limit that the account had there and ignores the requested one. With `expected_version`
    another version is a StaleVersionError.
    """
    get_cost_center(connection, account, limits=limits, at=at, actor=actor)
    current = cost_centers.lock_current(connection, account.attribution_id)
    if expected_version is not None and expected_version != current.version:
        raise StaleVersionError(
            f"expected_version: {expected_version} is not current: {account.attribution_id} is at {current.version}"
        )
    if strategy is current.billing_strategy:
        if spending_limit is None or spending_limit == current.spending_limit:
            return current
        changed = change_limit(current, account, spending_limit, limits)
    else:
        _check_unsubscribed(connection, current)
        remembered = cost_centers.find_latest_limit(connection, account.attribution_id, strategy)
        limit = _limit_after_switch(strategy, asked=spending_limit, remembered=remembered, held=current.spending_limit)
        changed = switch_strategy(current, account, strategy, spending_limit=limit, limits=limits, at=at)
        burn_grants.settle_now(connection, current, at=at, ends_cycle=True)
    cost_centers.append_versions(connection, [changed], actor=actor)
    forgiven = _balance_out(connection, current, changed, at=at) if _is_upgrade(current, changed) else 0
    _audit_change(connection, current, changed, forgiven=forgiven, at=at, actor=actor)
    return changed


def check_limit(
    connection: Connection,
    account: Account,
    *,
    strategy: BillingStrategy,
    spending_limit: int | None,
    limits: SpendingLimits,
) -> None:
    """Raise InvalidInputError if `set_cost_center` would for the limit; nothing is changed, no account is opened."""
    current = cost_centers.find_current(connection, account.attribution_id)
    if current is not None and strategy is current.billing_strategy and spending_limit is None:
        return
    remembered = cost_centers.find_latest_limit(connection, account.attribution_id, strategy)
    held = default_limit(account, limits) if current is None else current.spending_limit
    limit = _limit_after_switch(strategy, asked=spending_limit, remembered=remembered, held=held)
    cost_center_rules.check_limit(account, strategy, limit, limits)


def _limit_after_switch(strategy: BillingStrategy, *, asked: int | None, remembered: int | None, held: int) -> int:
    """Back on other the limit is what it last was there; on stripe it is what is asked for, else as it was."""
    order = (remembered, asked) if strategy is BillingStrategy.OTHER else (asked, remembered)
    return next((limit for limit in order if limit is not None), held)


def _is_upgrade(before: CostCenter, after: CostCenter) -> bool:
    return after.billing_strategy is BillingStrategy.STRIPE is not before.billing_strategy


def _check_unsubscribed(connection: Connection, current: CostCenter) -> None:
    """Refuse to leave stripe while a subscription would go on billing what the allowance would cover."""
    subscription = customers.find_open_subscription(connection, current.attribution_id)
    if current.billing_strategy is BillingStrategy.STRIPE and subscription is not None:
        allowed = f"stripe while the subscription {subscription.subscription_id} is open"
        raise InvalidInputError("billing_strategy", BillingStrategy.OTHER.value, allowed)


def _balance_out(connection: Connection, before: CostCenter, upgraded: CostCenter, *, at: datetime) -> int:
    """Forgive what is open when an account begins to pay, unless that was done within the last month.

    Grants have paid first. An upgrade may be stored later than it took effect; what a reset has covered meanwhile is
    not forgiven again.
    """
    account = upgraded.attribution_id
    if entries.has_entry_since(connection, account, EntryKind.UPGRADE, since=add_months(at, -1)):
        return 0
    instants = {at, max(at, before.cycle.started_at)}
    balance = min(balances.list_gross_balances(connection, [(account, instant)])[account] for instant in instants)
    if balance <= 0:
        return 0
    forgiveness = entries.Entry(
        attribution_id=account,
        key=upgrade_key(upgraded.version),
        kind=EntryKind.UPGRADE,
        credit_cents=-balance,
        effective_at=at,
        description="Balanced out on the upgrade to stripe",
    )
    entries.append_entries(connection, [forgiveness])
    return balance


def _audit_change(
    connection: Connection, before: CostCenter, after: CostCenter, *, forgiven: int, at: datetime, actor: Actor
) -> None:
    audit.append_audit(
        connection,
        at=at,
        actor=actor,
        action="cost_center.set",
        attribution_id=after.attribution_id,
        details={
            "version": after.version,
            "billing_strategy": [before.billing_strategy.value, after.billing_strategy.value],
            "spending_limit": [before.spending_limit, after.spending_limit],
            "forgiven_cents": forgiven,
        },
    )

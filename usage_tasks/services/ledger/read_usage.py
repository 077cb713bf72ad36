"""Read an account's usage and balance."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.limits import LimitState, limit_state, remaining_cents
from usage_tasks.storage.ledger import balances, cost_centers, usage_lines
from usage_tasks.storage.ledger.usage_lines import UsageEntry

RANGE_MAX: Final = timedelta(days=300)
PAGE_MAX: Final = 1_000_000
PER_PAGE_DEFAULT: Final = 50
PER_PAGE_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceStanding:
    """An account's balance at an instant against its limit; `remaining_cents` may be negative."""

    balance_cents: CreditCents
    spending_limit: int
    remaining_cents: int
    limit_state: LimitState


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePage:
    """One page of usage, and what the whole range holds."""

    entries: Sequence[UsageEntry]
    credit_cents_used: int
    total_entries: int
    page: int
    per_page: int
    total_pages: int


def get_standing(connection: Connection, account: Account, *, at: datetime) -> BalanceStanding:
    """Return an account's live balance at `at`, drafts included, beside its current limit."""
    current = cost_centers.get_current(connection, account.attribution_id)
    balance = balances.get_balance(connection, account.attribution_id, at=at)
    return BalanceStanding(
        balance_cents=balance,
        spending_limit=current.spending_limit,
        remaining_cents=remaining_cents(balance, current.spending_limit),
        limit_state=limit_state(balance, current.spending_limit),
    )


def list_usage(
    connection: Connection,
    account: Account,
    *,
    start: datetime,
    end: datetime,
    at: datetime,
    order: Literal["ascending", "descending"] = "descending",
    page: int = 1,
    per_page: int = PER_PAGE_DEFAULT,
    of_user: UUID | None = None,
) -> UsagePage:
    """List an account's usage that took effect in [start, end), drafts as of `at` included; of one user if asked.

    Page 0 means 1, and 0 a page the default. Raises InvalidInputError for a range or a page that is not allowed.
    """
    if start > end:
        raise InvalidInputError("start", start.isoformat(), f"at or before end, {end.isoformat()}")
    if end - start > RANGE_MAX:
        raise InvalidInputError("end", end.isoformat(), f"at most {RANGE_MAX.days} days after start")
    if not 0 <= page <= PAGE_MAX:
        raise InvalidInputError("page", page, f"from 0 to {PAGE_MAX}")
    if not 0 <= per_page <= PER_PAGE_MAX:
        raise InvalidInputError("per_page", per_page, f"from 0 to {PER_PAGE_MAX}")
    page, per_page = page or 1, per_page or PER_PAGE_DEFAULT
    cents, total = usage_lines.summarize(
        connection, account.attribution_id, start=start, end=end, at=at, of_user=of_user
    )
    found = usage_lines.list_page(
        connection,
        account.attribution_id,
        start=start,
        end=end,
        at=at,
        order=order,
        limit=per_page,
        offset=(page - 1) * per_page,
        of_user=of_user,
    )
    return UsagePage(
        entries=found,
        credit_cents_used=cents,
        total_entries=total,
        page=page,
        per_page=per_page,
        total_pages=-(-total // per_page),
    )

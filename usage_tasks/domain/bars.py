"""The bars of an account beside its limit: a dispute that stands, payments that failed for too long.

Production asks the database, `find_bar` in storage/limits/bars.py. The function here is its oracle, which
production never calls; tests/limits/test_bars_twin.py holds the two equal.
Source: docs/adr/0010-limits.md, docs/adr/0017-payments.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from usage_tasks.domain.accounts import Account, AccountKind, AttributionId
from usage_tasks.domain.disputes import SETTLED, DisputeStatus
from usage_tasks.domain.dunning import DunningState
from usage_tasks.domain.limits import EntitlementReason


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeBlock:
    """A dispute over a charge of an account, and whom it blocks: the users who answer for it, or the whole account."""

    attribution_id: AttributionId
    status: DisputeStatus
    blocked_user_ids: frozenset[UUID]
    blocked_account: bool


def judge_bar(
    account: Account, disputes: Iterable[DisputeBlock], dunning: DunningState | None
) -> EntitlementReason | None:
    """Return the bar of an account, or None. `disputes` are those of all accounts, `dunning` the account's own state.

    A blocked user is barred from their own account, whichever account the dispute is about. A settled dispute bars
    nobody, even if it was lost: after that a person decides. A block comes before a suspension.
    """
    user_id = account.entity_id if account.kind is AccountKind.USER else None
    for dispute in disputes:
        blocks_account = dispute.blocked_account and dispute.attribution_id == account.attribution_id
        if dispute.status not in SETTLED and (blocks_account or user_id in dispute.blocked_user_ids):
            return EntitlementReason.BLOCKED
    return EntitlementReason.SUSPENDED if dunning is DunningState.SUSPENDED else None

"""Follow a dispute: block the responsible users while it is open against the account, and unblock them afterwards.

One transaction per look. The blocked users are stored with the dispute, so exactly these are unblocked, even if the
team has other owners by then. A user blocked by another dispute too stays blocked. Source: docs/semantics.md, Stripe;
docs/adr/0017.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId, parse_attribution
from usage_tasks.domain.announcements import (
    AccountDisputed,
    BlockAccount,
    BlockUser,
    UnblockAccount,
    UnblockUser,
    UserDisputed,
)
from usage_tasks.domain.disputes import Dispute, DisputeStatus, blocks, follow
from usage_tasks.services.directory.owners import owners_of
from usage_tasks.storage.operations import audit, outbox
from usage_tasks.storage.payments import customers, disputes


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeOutcome:
    """The state of a dispute, and how many users this look blocked or unblocked."""

    status: str | None
    blocked: int = 0
    unblocked: int = 0


def reflect_dispute(connection: Connection, dispute: Dispute, *, at: datetime, actor: Actor) -> DisputeOutcome:
    """Bring the blocks in line with a dispute. A dispute of an unknown customer has no effect."""
    account = None
    if dispute.customer_id is not None:
        account = customers.find_account(connection, dispute.customer_id)
    if account is None:
        return DisputeOutcome(status=None)
    disputes.lock_all(connection)
    held = disputes.find_dispute(connection, dispute.dispute_id)
    status = follow(None if held is None else held.status, dispute.status)
    responsible: Sequence[UUID] = () if held is None else held.blocked_user_ids
    if blocks(status) and not responsible:
        responsible = owners_of(connection, parse_attribution(account))
    whole = (held is not None and held.blocked_account) or (blocks(status) and not responsible)
    disputes.put_dispute(
        connection, account, dispute, status=status, blocked_user_ids=responsible, blocked_account=whole
    )
    act = _block if blocks(status) else _unblock
    outcome = act(connection, account, dispute, status=status, users=responsible, whole=whole, at=at)
    if held is None or held.status is not status or outcome.blocked:
        audit.append_audit(
            connection,
            at=at,
            actor=actor,
            action=f"stripe_dispute.{status}",
            attribution_id=account,
            details={
                "stripe_dispute_id": dispute.dispute_id,
                "reason": dispute.reason,
                "blocked": outcome.blocked,
                "unblocked": outcome.unblocked,
            },
        )
    return outcome


def _block(
    connection: Connection,
    account: AttributionId,
    dispute: Dispute,
    *,
    status: DisputeStatus,
    users: Sequence[UUID],
    whole: bool,
    at: datetime,
) -> DisputeOutcome:
    blocked = _announce(connection, BlockUser, account, dispute, users, at=at)
    if whole:  # the directory knows no owner of the team: the platform must find the owners itself
        _announce_account(connection, BlockAccount, account, dispute, at)
    return DisputeOutcome(status=status, blocked=blocked)


def _unblock(
    connection: Connection,
    account: AttributionId,
    dispute: Dispute,
    *,
    status: DisputeStatus,
    users: Sequence[UUID],
    whole: bool,
    at: datetime,
) -> DisputeOutcome:
    """Unblock the users whom nothing else blocks. A user never blocked by this dispute is not announced."""
    others = disputes.list_blocked_by_others(connection, dispute.dispute_id)
    free = [user_id for user_id in users if user_id not in others]
    unblocked = _announce(connection, UnblockUser, account, dispute, free, at=at)
    if whole and not disputes.is_blocked_by_others(connection, account, dispute.dispute_id):
        _announce_account(connection, UnblockAccount, account, dispute, at)
    return DisputeOutcome(status=status, unblocked=unblocked)


def _announce(
    connection: Connection,
    message: type[UserDisputed],
    account: AttributionId,
    dispute: Dispute,
    users: Iterable[UUID],
    *,
    at: datetime,
) -> int:
    new = 0
    for user_id in users:  # a handful: a team's owners
        made = message(user_id=user_id, attribution_id=account, stripe_dispute_id=dispute.dispute_id, at=at)
        new += outbox.announce(connection, made, once_per=f"{dispute.dispute_id}:{user_id}")
    return new


def _announce_account(
    connection: Connection, message: type[AccountDisputed], account: AttributionId, dispute: Dispute, at: datetime
) -> None:
    made = message(attribution_id=account, stripe_dispute_id=dispute.dispute_id, at=at)
    outbox.announce(connection, made, once_per=dispute.dispute_id)

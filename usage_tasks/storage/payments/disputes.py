"""Disputes and refunds: how each stands, and whom a dispute blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.disputes import FORGIVING, SETTLED, Dispute, DisputeId, DisputeStatus
from usage_tasks.domain.payments import StripeInvoiceId
from usage_tasks.domain.reversals import Refund, RefundId
from usage_tasks.storage.rows import execute, fetch, sql_list


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeRow:
    """The stored dispute; `blocked_user_ids` are the users who were responsible when it began to block."""

    dispute_id: DisputeId
    attribution_id: AttributionId
    status: DisputeStatus
    blocked_user_ids: Sequence[UUID]
    blocked_account: bool


def lock_all(connection: Connection) -> None:
    """Let nobody else decide on disputes until the transaction ends: two may decide on the same user."""
    execute(connection, "LOCK TABLE stripe_dispute IN SHARE ROW EXCLUSIVE MODE")


def find_dispute(connection: Connection, dispute_id: DisputeId) -> DisputeRow | None:
    """Return the stored dispute, or None."""
    statement = """
        SELECT stripe_dispute_id AS dispute_id, attribution_id, status, blocked_user_ids, blocked_account
        FROM stripe_dispute WHERE stripe_dispute_id = :dispute
    """
    rows = fetch(connection, statement, dispute=dispute_id)
    return DisputeRow(**{**rows[0]._mapping, "status": DisputeStatus(rows[0].status)}) if rows else None


def put_dispute(
    connection: Connection,
    attribution_id: AttributionId,
    dispute: Dispute,
    *,
    status: DisputeStatus,
    blocked_user_ids: Sequence[UUID],
    blocked_account: bool,
) -> None:
    """Store how a dispute stands."""
    execute(
        connection,
        """
        INSERT INTO stripe_dispute
            (attribution_id, stripe_dispute_id, status, reason, amount, currency, created_at, blocked_user_ids,
             blocked_account)
        VALUES (:account, :dispute, :status, :reason, :amount, :currency, :created_at, CAST(:blocked AS uuid[]),
                :blocked_account)
        ON CONFLICT (attribution_id, stripe_dispute_id) DO UPDATE
        SET status = EXCLUDED.status, reason = EXCLUDED.reason, amount = EXCLUDED.amount,
            blocked_user_ids = EXCLUDED.blocked_user_ids, blocked_account = EXCLUDED.blocked_account,
            changed_at = clock_timestamp()
        """,
        account=attribution_id,
        dispute=dispute.dispute_id,
        status=status.value,
        reason=dispute.reason,
        amount=dispute.amount,
        currency=dispute.currency,
        created_at=dispute.created_at,
        blocked=[str(user_id) for user_id in blocked_user_ids],
        blocked_account=blocked_account,
    )


def list_blocked_by_others(connection: Connection, dispute_id: DisputeId) -> frozenset[UUID]:
    """List the users whom any other dispute blocks as it stands."""
    statement = f"""
        SELECT DISTINCT unnest(blocked_user_ids) AS user_id FROM stripe_dispute
        WHERE stripe_dispute_id <> :dispute AND status NOT IN ({sql_list(FORGIVING)})
    """
    return frozenset(row.user_id for row in fetch(connection, statement, dispute=dispute_id))


def is_blocked_by_others(connection: Connection, attribution_id: AttributionId, dispute_id: DisputeId) -> bool:
    """Return True if another dispute blocks an account as a whole."""
    statement = f"""
        SELECT 1 FROM stripe_dispute WHERE attribution_id = :account AND stripe_dispute_id <> :dispute
            AND blocked_account AND status NOT IN ({sql_list(FORGIVING)}) LIMIT 1
    """
    return bool(fetch(connection, statement, account=attribution_id, dispute=dispute_id))


def find_refund_status(connection: Connection, attribution_id: AttributionId, refund_id: RefundId) -> str | None:
    """Lock the stored row of a refund and return its status; None if there is none."""
    statement = """
        SELECT status FROM stripe_refund WHERE attribution_id = :account AND stripe_refund_id = :refund FOR UPDATE
    """
    rows = fetch(connection, statement, account=attribution_id, refund=refund_id)
    return rows[0].status if rows else None


def put_refund(
    connection: Connection,
    attribution_id: AttributionId,
    refund: Refund,
    *,
    invoice_id: StripeInvoiceId | None,
    replaces: str | None,
    at: datetime,
) -> bool:
    """Store how a refund stands in the place of what stood; return True if nobody else did so meanwhile."""
    statement = """
        INSERT INTO stripe_refund AS held
            (attribution_id, stripe_refund_id, status, amount, currency, stripe_invoice_id, created_at, changed_at)
        VALUES (:account, :refund, :status, :amount, :currency, :invoice, :created_at, :at)
        ON CONFLICT (attribution_id, stripe_refund_id) DO UPDATE
        SET status = EXCLUDED.status, changed_at = EXCLUDED.changed_at WHERE held.status = :replaces
    """
    return (
        execute(
            connection,
            statement,
            account=attribution_id,
            refund=refund.refund_id,
            status=refund.status,
            amount=refund.amount,
            currency=refund.currency,
            invoice=invoice_id,
            created_at=refund.created_at,
            replaces=replaces,
            at=at,
        )
        == 1
    )


def list_statuses(connection: Connection, ids: Sequence[str]) -> Mapping[str, str]:
    """Return the status of each stored dispute and refund, by id."""
    statement = """
        SELECT stripe_dispute_id AS id, status FROM stripe_dispute WHERE stripe_dispute_id = ANY(CAST(:ids AS text[]))
        UNION ALL
        SELECT stripe_refund_id, status FROM stripe_refund WHERE stripe_refund_id = ANY(CAST(:ids AS text[]))
    """
    return {row.id: row.status for row in fetch(connection, statement, ids=list(ids))}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDispute:
    """A dispute that is not settled as far as is known."""

    dispute_id: DisputeId
    created_at: datetime


def list_open_disputes(connection: Connection, *, limit: int) -> Sequence[OpenDispute]:
    """List the disputes that are not settled as far as is known, newest first."""
    statement = f"""
        SELECT stripe_dispute_id AS dispute_id, created_at FROM stripe_dispute
        WHERE status NOT IN ({sql_list(SETTLED)}) ORDER BY created_at DESC, stripe_dispute_id LIMIT :limit
    """
    return [OpenDispute(**row._mapping) for row in fetch(connection, statement, limit=limit)]

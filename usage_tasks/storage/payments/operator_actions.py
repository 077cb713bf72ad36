"""Actions of operators in Stripe: a row with its idempotency key before the call, settled after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.idempotency import fresh_key
from usage_tasks.domain.payments import StripeOperation
from usage_tasks.storage.leases import bounded, is_free
from usage_tasks.storage.rows import execute, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that was asked of Stripe and is not settled; `claimed_until` where this worker alone may call."""

    attribution_id: AttributionId
    operation: StripeOperation
    object_id: str
    number: int
    idempotency_key: str
    actor: Actor
    claimed_until: datetime | None = None


_ACTION = "attribution_id, operation, object_id, number, idempotency_key, actor"


def reserve_action(
    connection: Connection, attribution_id: AttributionId, operation: StripeOperation, object_id: str, *, actor: Actor
) -> Action:
    """Store that something is about to be asked of Stripe, unless it is being asked already; return the open action."""
    execute(
        connection,
        """
        INSERT INTO stripe_action (attribution_id, operation, object_id, number, idempotency_key, actor)
        SELECT :account, :operation, :object, n, concat_ws(':', CAST(:operation AS text), CAST(:object AS text), n),
               :actor
        FROM (
            SELECT COALESCE(max(number), 0) + 1 AS n FROM stripe_action
            WHERE attribution_id = :account AND operation = :operation AND object_id = :object
        ) AS next
        ON CONFLICT DO NOTHING
        """,
        account=attribution_id,
        operation=operation.value,
        object=object_id,
        actor=actor,
    )
    statement = f"""
        SELECT {_ACTION} FROM stripe_action
        WHERE operation = :operation AND object_id = :object AND settled_at IS NULL
    """
    rows = fetch(connection, statement, operation=operation.value, object=object_id)
    if not rows:
        raise RetryableError(f"stripe action: {operation} of {object_id} was settled this very moment: ask again")
    return _action(rows[0])


def claim_action(connection: Connection, action: Action, *, lease: timedelta) -> Action | None:
    """Lease an open action, so that this worker alone makes its call; return it as claimed, or None if not free."""
    statement = f"""
        UPDATE stripe_action SET claimed_until = clock_timestamp() + :lease
        WHERE {_SAME} AND settled_at IS NULL AND {is_free()}
        RETURNING {_ACTION}, claimed_until
    """
    rows = fetch(connection, statement, lease=bounded(lease), **_key(action))
    return _action(rows[0]) if rows else None


# A worker whose lease ran out may end late: its success is still true, but no other result of it counts any more.
def release_action(connection: Connection, claimed: Action) -> None:
    """Free an action whose call failed for now, if its lease is still this worker's."""
    statement = f"UPDATE stripe_action SET claimed_until = NULL WHERE {_HELD}"
    execute(connection, statement, lease=claimed.claimed_until, **_key(claimed))


def renew_key(connection: Connection, claimed: Action) -> None:
    """Store a fresh key in the place of a spent one, if the lease is still this worker's."""
    statement = f"UPDATE stripe_action SET idempotency_key = :fresh WHERE {_HELD}"
    fresh = fresh_key(claimed.idempotency_key)
    execute(connection, statement, fresh=fresh, lease=claimed.claimed_until, **_key(claimed))


def settle_refused(connection: Connection, claimed: Action, *, error: str) -> None:
    """Settle an action as refused, if its lease is still this worker's."""
    statement = f"""
        UPDATE stripe_action SET settled_at = clock_timestamp(), claimed_until = NULL, error = :error WHERE {_HELD}
    """
    execute(connection, statement, error=error, lease=claimed.claimed_until, **_key(claimed))


def settle_done(connection: Connection, action: Action) -> bool:
    """Settle an action as done, also where another worker was refused; return True if this call was the first to."""
    statement = f"""
        UPDATE stripe_action SET settled_at = clock_timestamp(), claimed_until = NULL, error = NULL
        WHERE {_SAME} AND (settled_at IS NULL OR error IS NOT NULL)
    """
    return execute(connection, statement, **_key(action)) == 1


def list_open(connection: Connection, *, limit: int) -> Sequence[Action]:
    """List up to `limit` open actions that nobody is at, oldest first."""
    statement = f"""
        SELECT {_ACTION} FROM stripe_action
        WHERE settled_at IS NULL AND {is_free()}
        ORDER BY requested_at LIMIT :limit
    """
    return [_action(row) for row in fetch(connection, statement, limit=limit)]


_SAME = "(attribution_id, operation, object_id, number) = (:account, :operation, :object, :number)"
_HELD = f"{_SAME} AND settled_at IS NULL AND claimed_until = :lease"


def _key(action: Action) -> dict[str, object]:
    return {
        "account": action.attribution_id,
        "operation": action.operation.value,
        "object": action.object_id,
        "number": action.number,
    }


def _action(row: Row[tuple[object, ...]]) -> Action:
    return Action(**{**row._mapping, "operation": StripeOperation(row.operation)})

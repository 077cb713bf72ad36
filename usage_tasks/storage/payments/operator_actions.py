"""Actions of operators in Stripe: a row with its idempotency key before the call, settled after it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import Connection, Row

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.idempotency import fresh_key
from usage_tasks.domain.payments import StripeOperation
from usage_tasks.storage.leases import bounded, is_free
from usage_tasks.storage.rows import execute, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that was asked of Stripe and is not settled."""

    attribution_id: AttributionId
    operation: StripeOperation
    object_id: str
    number: int
    idempotency_key: str
    actor: Actor


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


def claim_action(connection: Connection, action: Action, *, lease: timedelta) -> bool:
    """Lease an open action, so that this worker alone makes its call; return True if it was free."""
    statement = f"""
        UPDATE stripe_action SET claimed_until = clock_timestamp() + :lease
        WHERE {_SAME} AND settled_at IS NULL AND {is_free()}
    """
    return execute(connection, statement, lease=bounded(lease), **_key(action)) == 1


def release_action(connection: Connection, action: Action) -> None:
    """Free an action whose call failed for now."""
    execute(connection, f"UPDATE stripe_action SET claimed_until = NULL WHERE {_SAME}", **_key(action))


def renew_key(connection: Connection, action: Action) -> Action:
    """Store a fresh key in the place of a spent one; return the action with it."""
    fresh = replace(action, idempotency_key=fresh_key(action.idempotency_key))
    statement = f"UPDATE stripe_action SET idempotency_key = :fresh WHERE {_SAME}"
    execute(connection, statement, fresh=fresh.idempotency_key, **_key(action))
    return fresh


def settle_action(connection: Connection, action: Action, *, error: str | None = None) -> bool:
    """Settle an action as done or, with an error, as refused; return True if this call was the first to."""
    statement = f"""
        UPDATE stripe_action SET settled_at = clock_timestamp(), claimed_until = NULL, error = :error
        WHERE {_SAME} AND settled_at IS NULL
    """
    return execute(connection, statement, error=error, **_key(action)) == 1


def list_open(connection: Connection, *, limit: int) -> Sequence[Action]:
    """List up to `limit` open actions that nobody is at, oldest first."""
    statement = f"""
        SELECT {_ACTION} FROM stripe_action
        WHERE settled_at IS NULL AND {is_free()}
        ORDER BY requested_at LIMIT :limit
    """
    return [_action(row) for row in fetch(connection, statement, limit=limit)]


_SAME = "(attribution_id, operation, object_id, number) = (:account, :operation, :object, :number)"


def _key(action: Action) -> dict[str, object]:
    return {
        "account": action.attribution_id,
        "operation": action.operation.value,
        "object": action.object_id,
        "number": action.number,
    }


def _action(row: Row[tuple[object, ...]]) -> Action:
    return Action(**{**row._mapping, "operation": StripeOperation(row.operation)})

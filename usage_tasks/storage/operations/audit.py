"""Who changed what: one row a change of an account, or of what concerns every account; never edited."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.storage.rows import as_json, execute


def append_audit(
    connection: Connection,
    *,
    at: datetime,
    actor: Actor,
    action: str,
    attribution_id: AttributionId | None,
    details: Mapping[str, object],
) -> None:
    """Record a change in the transaction that makes it. `details` hold identifiers and numbers, nothing personal.

    The account is None where a change concerns no single one.
    """
    statement = """
        INSERT INTO audit (at, actor, action, attribution_id, details)
        VALUES (:at, :actor, :action, :account, CAST(:details AS jsonb))
    """
    execute(connection, statement, at=at, actor=actor, action=action, account=attribution_id, details=as_json(details))

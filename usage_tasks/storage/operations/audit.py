"""The audit: one row per change of an account, or of a fact that concerns every account; never edited.

Every INSERT of a row is made here. A statement that audits its own change takes `auditing` as a part.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.storage.rows import as_json, execute

_INTO: Final = "INSERT INTO audit (at, actor, action, attribution_id, details)"
_APPEND: Final = f"{_INTO} VALUES (:at, :actor, :action, :account, CAST(:details AS jsonb))"


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

    The account is None if a change concerns no single one.
    """
    execute(connection, _APPEND, at=at, actor=actor, action=action, account=attribution_id, details=as_json(details))


def auditing(rows: str, *, action: str, at: str, details: str, account: str = "attribution_id") -> str:
    """Compose the INSERT of a row for each of `rows`, the text of a FROM clause; the parameter `actor` made the change.

    `at`, `details` and `account` are SQL expressions on those rows.
    """
    return f"{_INTO} SELECT {at}, :actor, '{action}', {account}, {details} FROM {rows}"

"""The outbox's messages to the platform, each checked against its exported schema."""

from collections.abc import Sequence
from typing import Any

import jsonschema_rs
from sqlalchemy import Connection

from usage_tasks.domain.announcements import ANNOUNCEMENTS
from usage_tasks.storage.rows import fetch
from usage_tasks.tasks.schemas import list_schemas

_VALIDATORS = {
    name: jsonschema_rs.validator_for(schema, validate_formats=True)
    for name, schema in list_schemas().items()
    if name in ANNOUNCEMENTS
}


def list_messages(connection: Connection) -> Sequence[Any]:
    """List every message, in order; raise if a message does not match its schema."""
    rows = fetch(connection, "SELECT key, task, payload FROM outbox ORDER BY outbox_id")
    for row in rows:
        _VALIDATORS[row.task].validate(row.payload)
    return rows

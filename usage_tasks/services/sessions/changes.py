"""Rows that say one change of a session, as files have them: a class and a state `from` an instant on.

Each becomes a report with one segment. Source: docs/adr/0034-timelines.md.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Namespace
from usage_tasks.storage.sessions import fixed_facts
from usage_tasks.wire.session_reports import find_instance_id

_OF_SEGMENT: Final = ("from", "workspace_class", "state")


def as_reports(connection: Connection, rows: Sequence[object], namespace: Namespace) -> Sequence[object]:
    """Turn the changes among rows into reports, with the facts of their sessions for what they leave out.

    The facts are those of the first row of the same session without `from`, else those that are known. A change of a
    session without facts stays as it is.
    """
    if not any(map(is_change, rows)):
        return rows
    sessions = [find_instance_id(row, namespace=namespace) for row in rows]
    changed = {session for session, row in zip(sessions, rows, strict=True) if session and is_change(row)}
    known = fixed_facts.list_facts(connection, changed)
    facts: dict[UUID | None, Mapping[str, object]] = {session: known[session] for session in known}
    for session, row in zip(reversed(sessions), reversed(rows), strict=True):
        if isinstance(row, Mapping) and not is_change(row):
            facts[session] = {name: row[name] for name in fixed_facts.FACTS if name in row}
    return [_as_report(row, facts.get(session)) for session, row in zip(sessions, rows, strict=True)]


def is_change(row: object) -> bool:
    """Return whether a row says one change of a session."""
    return isinstance(row, Mapping) and "from" in row


def _as_report(row: object, facts: Mapping[str, object] | None) -> object:
    if facts is None or not isinstance(row, Mapping) or not is_change(row):
        return row
    segment = {name: row[name] for name in _OF_SEGMENT if name in row}
    return {**facts, **{name: value for name, value in row.items() if name not in _OF_SEGMENT}, "segments": [segment]}

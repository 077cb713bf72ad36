"""Ledger entries that are not sessions: appended by natural key, so that twice is impossible."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.errors import InvariantError
from usage_tasks.domain.ledger import SETTLING_KINDS, EntryKind
from usage_tasks.storage.rows import execute, fetch, fetch_one, rows_as_json, sql_list


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One movement of an account's balance, in signed credit cents."""

    attribution_id: AttributionId
    key: str
    kind: EntryKind
    credit_cents: int
    effective_at: datetime
    description: str
    user_id: UUID | None = None


_COLUMNS: Final = "attribution_id, key, kind, credit_cents, effective_at, description"


def inserting(rows: str, *, subject: Literal["instance_id, session_started_at", "user_id"]) -> str:
    """Compose the INSERT of entries. `rows` is a query of an entry's columns, and last of its session or its user."""
    return f"INSERT INTO ledger_entry ({_COLUMNS}, {subject}) {rows}"


_APPEND: Final = inserting(
    f"""
    SELECT {_COLUMNS}, user_id
    FROM jsonb_to_recordset(CAST(:entries AS jsonb)) AS e(
        attribution_id text, key text, kind text, credit_cents bigint, effective_at timestamptz, description text,
        user_id uuid)
    ORDER BY attribution_id, key
    ON CONFLICT (attribution_id, key) DO NOTHING
    """,
    subject="user_id",
)


def append_entries(connection: Connection, entries: Sequence[Entry]) -> int:
    """Append entries, and skip entries whose key exists already. Return how many were new."""
    return execute(connection, _APPEND, entries=rows_as_json(entries))


def find_entry(connection: Connection, attribution_id: AttributionId, key: str) -> Entry | None:
    """Return the entry that stands under a key; None if none does."""
    statement = f"SELECT {_COLUMNS}, user_id FROM ledger_entry WHERE attribution_id = :account AND key = :key"
    rows = fetch(connection, statement, account=attribution_id, key=key)
    return Entry(**{**rows[0]._mapping, "kind": EntryKind(rows[0].kind)}) if rows else None


def get_entry(connection: Connection, attribution_id: AttributionId, key: str) -> Entry:
    """Return the entry that stands under a key. Raises InvariantError if none does."""
    entry = find_entry(connection, attribution_id, key)
    if entry is None:
        raise InvariantError(f"ledger: {attribution_id} has no entry {key!r}")
    return entry


def has_entry_since(connection: Connection, attribution_id: AttributionId, kind: EntryKind, *, since: datetime) -> bool:
    """Return True if an account has an entry of a kind that took effect after an instant."""
    statement = """
        SELECT EXISTS (
            SELECT 1 FROM ledger_entry WHERE attribution_id = :account AND effective_at > :since AND kind = :kind
        ) AS found
    """
    return bool(fetch_one(connection, statement, account=attribution_id, since=since, kind=kind).found)


def list_latest_settled(
    connection: Connection, asked: Sequence[tuple[AttributionId, datetime]]
) -> Mapping[AttributionId, datetime]:
    """Return when the last entry that settled usage took effect, by account, where that is after an instant."""
    statement = f"""
        SELECT a.attribution_id, max(e.effective_at) AS effective_at
        FROM unnest(CAST(:accounts AS text[]), CAST(:instants AS timestamptz[])) AS a(attribution_id, at)
        JOIN ledger_entry e ON e.attribution_id = a.attribution_id AND e.effective_at > a.at
            AND e.kind IN ({sql_list(SETTLING_KINDS)})
        GROUP BY a.attribution_id
    """
    accounts, instants = [account for account, _ in asked], [at for _, at in asked]
    rows = fetch(connection, statement, accounts=accounts, instants=instants)
    return {row.attribution_id: row.effective_at for row in rows}

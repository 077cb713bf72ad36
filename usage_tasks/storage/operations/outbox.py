"""The outbox: messages to the platform, stored with the change that causes them and sent afterwards.

Every INSERT of one is made here. A statement that announces its own changes takes `announcing` as a part. Whichever
task executes one has it sent when it ends: storage/announced.py knows the statement by its text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.announcements import PREFIX, Announcement
from usage_tasks.domain.errors import InvariantError
from usage_tasks.storage.leases import bounded, is_free
from usage_tasks.storage.rows import as_json, execute, fetch, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """One message to the platform as it is sent: a Celery task's name and its arguments; the key is the task's id.

    `payload` is JSON as text: the driver would parse a whole batch, and fail for all if one is too large or too deep.
    """

    outbox_id: int
    key: str
    task: str
    payload: str


# What is sent has names beside ids, where there are any: as they are when it is sent.
_NAMES: Final = """
    (SELECT jsonb_strip_nulls(jsonb_build_object('{word}_external_id', external_id, '{word}_name', display_name))
     FROM directory_name WHERE subject = {subject})
"""
_ACCOUNT_NAMES: Final = _NAMES.format(word="account", subject="held.payload ->> 'attribution_id'")
_USER_NAMES: Final = _NAMES.format(word="user", subject="'user:' || (held.payload ->> 'user_id')")
_NAMED: Final = f"""
    CASE jsonb_typeof(held.payload) WHEN 'object'
        THEN held.payload || COALESCE({_ACCOUNT_NAMES}, '{{}}') || COALESCE({_USER_NAMES}, '{{}}')
        ELSE held.payload END
"""

_INTO: Final = "INSERT INTO outbox (key, task, payload)"
_ONCE: Final = "ON CONFLICT (key) DO NOTHING"
_ANNOUNCE: Final = f"{_INTO} VALUES (:key, :task, CAST(:payload AS jsonb)) {_ONCE}"


def announce(connection: Connection, message: Announcement, *, once_per: str) -> bool:
    """Store a message with the change that causes it, once per `once_per`; return True if it is new."""
    key = f"{message.name}:{once_per}"
    return execute(connection, _ANNOUNCE, key=key, task=message.name, payload=as_json(asdict(message))) == 1


def announcing(rows: str, *, name: str, once_per: Sequence[str], payload: str) -> str:
    """Compose the INSERT of a message for each of `rows`, the text of a FROM clause.

    The others are SQL expressions on those rows: the message's name, the parts of the key, and `payload_of`.
    """
    key = f"concat_ws(':', substr({name}, {len(PREFIX) + 1}), {', '.join(once_per)})"
    return f"{_INTO} SELECT {key}, {name}, {payload} FROM {rows} {_ONCE}"


def payload_of(message: type[Announcement], values: Mapping[str, str] = MappingProxyType({})) -> str:
    """Compose the payload of a kind of message as an SQL expression: each field is the column of the same name.

    `values` has other expressions by field. Raises InvariantError if it names a field that the message doesn't have.
    """
    expressions = {each.name: each.name for each in fields(message)}
    if unknown := values.keys() - expressions.keys():
        raise InvariantError(f"announcement {message.__name__}: has no field {', '.join(sorted(unknown))}")
    pairs = ", ".join(f"'{field}', {expression}" for field, expression in {**expressions, **values}.items())
    return f"jsonb_build_object({pairs})"


def claim_announcements(
    connection: Connection, *, limit: int, lease: timedelta, leased_too: bool = False, excluding: Sequence[int] = ()
) -> Sequence[OutboxRow]:
    """Lease up to `limit` announcements that are not sent yet, oldest first; `leased_too`: also leased ones."""
    statement = f"""
        UPDATE outbox AS held SET claimed_until = clock_timestamp() + :lease
        FROM (
            SELECT outbox_id FROM outbox
            WHERE dispatched_at IS NULL AND (:leased_too OR {is_free()})
                AND outbox_id <> ALL (CAST(:excluding AS bigint[]))
            ORDER BY outbox_id LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE held.outbox_id = due.outbox_id
        RETURNING held.outbox_id, held.key, held.task, CAST({_NAMED} AS text) AS payload
    """
    rows = fetch(
        connection,
        statement,
        limit=limit,
        lease=bounded(lease),
        leased_too=leased_too,
        excluding=list(excluding),
    )
    return sorted((OutboxRow(**row._mapping) for row in rows), key=lambda each: each.outbox_id)


def is_any_waiting(connection: Connection, *, excluding: Sequence[int] = ()) -> bool:
    """Return True if an announcement is not sent yet."""
    statement = """
        SELECT EXISTS (
            SELECT 1 FROM outbox WHERE dispatched_at IS NULL AND outbox_id <> ALL (CAST(:excluding AS bigint[]))
        ) AS waiting
    """
    return bool(fetch_one(connection, statement, excluding=list(excluding)).waiting)


def mark_dispatched(connection: Connection, announcements: Sequence[OutboxRow]) -> int:
    """Settle announcements that the broker has taken."""
    statement = "UPDATE outbox SET dispatched_at = clock_timestamp() WHERE outbox_id = ANY(CAST(:ids AS bigint[]))"
    return execute(connection, statement, ids=[each.outbox_id for each in announcements])

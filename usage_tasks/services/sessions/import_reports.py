"""Take up a chunk of a file of reports: the plain rows as a set, the others as a task's batch would."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.prices import list_classes
from usage_tasks.services.ledger.cost_center import open_accounts
from usage_tasks.services.sessions.changes import OddRow, as_reports, fold, is_change
from usage_tasks.services.sessions.record import RecordedBatch, record_reports
from usage_tasks.storage.directory.names import read_namespace
from usage_tasks.storage.pricing import prices
from usage_tasks.storage.sessions import bulk_copy, merging, source_snapshots
from usage_tasks.storage.sessions.bulk_copy import PlainRow
from usage_tasks.storage.sessions.merging import Merged, sum_merged
from usage_tasks.wire.session_reports import find_source, parse_reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a file by their lines: rows that can be copied, and the others."""

    plain: dict[int, PlainRow]
    odd: dict[int, OddRow]

    def report(self, line: int) -> object:
        """Return a row as a task would get it."""
        return self.odd[line].row if line in self.odd else as_report(bulk_copy.COLUMNS, self.plain[line])


def as_report(header: Sequence[str], values: Sequence[str]) -> Mapping[str, str]:
    """Name a row's values. Empty values are left out."""
    return {name: value for name, value in zip(header, values, strict=True) if value}


class Imported(NamedTuple):
    """The result of a chunk, and the accounts of its plain rows, which stay open once it is committed."""

    recorded: RecordedBatch
    accounts: Set[AttributionId]


def import_chunk(
    connection: Connection,
    chunk: Chunk,
    *,
    opened: Set[AttributionId],
    limits: SpendingLimits,
    at: datetime,
    actor: Actor,
) -> Imported:
    """Merge a chunk. The resulting rows equal those of `record_reports`. A rejection's index is its line.

    `opened` are accounts that are known to be open: they are not looked up. A row observed after `at` is read like a
    report that arrived at `at`; a row without an observation time is of `at`.
    """
    price_keys = prices.list_price_keys(connection)
    plain = _choose_plain(chunk, list_classes(price_keys), latest=at)
    folded = fold(chunk.odd, plain.values(), price_keys, at=at)
    if len(folded.lines) < len(chunk.odd) or len(plain) < len(chunk.plain):
        _lock(connection, chunk)
    merged, contradicting, with_changes = bulk_copy.merge_plain(connection, plain, folded.along, at=at)
    done = folded.lines if with_changes else frozenset()
    if done:
        updated = len(folded.along)
        merged = sum_merged([merged, Merged(inserted=0, updated=updated, unchanged=len(done) - updated)])
    accounts = {AttributionId(row[bulk_copy.ACCOUNT]) for line, row in plain.items() if line not in contradicting}
    open_accounts(connection, accounts - opened, limits=limits, at=at, actor=actor)
    lines = sorted([*(chunk.odd.keys() - done), *(chunk.plain.keys() - plain.keys()), *contradicting])
    if not lines:
        return Imported(RecordedBatch(merged=merged, rejections=[]), accounts)
    rows = [chunk.report(line) for line in lines]
    namespace = cache(partial(read_namespace, connection))
    told, changes = as_reports(connection, rows, namespace)
    read, malformed = parse_reports(told, at=at, namespace=namespace)
    reports = [replace(each, present=True) if each.index in changes else each for each in read]
    kept = [{"line": line, "row": row} for line, row in zip(lines, rows, strict=True)]
    rest = record_reports(connection, reports, malformed, raw=kept, limits=limits, at=at, arrived_at=at, actor=actor)
    rejections = [replace(each, index=lines[each.index]) for each in rest.rejections]
    return Imported(RecordedBatch(merged=sum_merged([merged, rest.merged]), rejections=rejections), accounts)


def _lock(connection: Connection, chunk: Chunk) -> None:
    """Lock the sources of all rows, then their sessions that are known: the rows are merged in several steps."""
    named = {find_source(each.row) for each in chunk.odd.values()}
    named |= {row[bulk_copy.SOURCE] or None for row in chunk.plain.values()}
    source_snapshots.lock_sources(connection, {source for source in named if source is not None})
    odd = {each.instance_id for each in chunk.odd.values() if each.instance_id is not None}
    merging.lock_sessions(connection, odd | {UUID(row[0]) for row in chunk.plain.values()})


def _choose_plain(chunk: Chunk, classes: frozenset[str], *, latest: datetime) -> Mapping[int, PlainRow]:
    """Leave out the sessions that must be read row by row.

    These are sessions of a class without a price, sessions that the chunk gives two accounts, classes or users, and
    sessions with a row that could not be read plainly or may be observed in the future: instants of UTC have the order
    of their text. A change is read after the rows of its session, so it leaves none out.
    """
    second = latest.astimezone(UTC).isoformat()[: len("2026-01-01T00:00:00")]
    odd = (each for each in chunk.odd.values() if not is_change(each.row))
    apart = {str(each.instance_id) for each in odd if each.instance_id is not None}
    apart |= {row[0] for row in chunk.plain.values() if row[bulk_copy.OBSERVED] >= second}
    fixed = {row[0]: _fixed(row) for row in chunk.plain.values()}
    if len(fixed) < len(chunk.plain):
        apart |= {row[0] for row in chunk.plain.values() if fixed[row[0]] != _fixed(row)}
    return {line: row for line, row in chunk.plain.items() if row[0] not in apart and row[bulk_copy.CLASS] in classes}


def _fixed(row: PlainRow) -> tuple[str, ...]:
    return row[bulk_copy.ACCOUNT], row[bulk_copy.CLASS], row[bulk_copy.USER]

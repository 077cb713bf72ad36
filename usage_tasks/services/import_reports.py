"""Take up a chunk of a file of reports: the plain rows as a set, the others as a task's batch would."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.services.cost_center import open_accounts
from usage_tasks.services.record import Recorded, record_reports
from usage_tasks.storage import staging
from usage_tasks.storage.sessions import sum_merged

Parse = Callable[[Sequence[object]], tuple[list[SessionReport], list[Rejection]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a file by their lines: a plain one as it stands, ready to copy, any other as its values.

    `odd` are the lines that are not plain, each with its session where that can be told.
    """

    header: Sequence[str]
    rows: dict[int, str | Sequence[str]]
    odd: dict[int, UUID | None]

    def plain(self) -> Iterator[str]:
        """Answer the plain rows as lines of CSV, each with its line's number before it."""
        return (f"{line},{row}\n" for line, row in self.rows.items() if isinstance(row, str))

    def report(self, line: int) -> object:
        """Answer a row as a task would get it, empty fields left out; one of another length as it is."""
        row = self.rows[line]
        values = row.split(",") if isinstance(row, str) else row
        if len(values) != len(self.header):
            return values
        return {name: value for name, value in zip(self.header, values, strict=True) if value}


def import_chunk(
    connection: Connection,
    chunk: Chunk,
    parse: Parse,
    *,
    limits: SpendingLimits,
    at: datetime,
    latest: datetime,
    actor: Actor,
) -> Recorded:
    """Merge a chunk; it ends in the rows that `record_reports` would end in. A rejection's index is its line.

    A row that was observed after `latest` is left to `parse` to judge; one that does not say when is of `at`.
    """
    staging.stage(connection, chunk.header, chunk.plain())
    odd = {each for each in chunk.odd.values() if each is not None}
    aside = staging.set_aside(connection, odd, latest=latest)
    merged, foreign = staging.merge_staged(connection, at=at)
    open_accounts(connection, staging.list_new_accounts(connection), limits=limits, at=at, actor=actor)
    lines = sorted([*chunk.odd, *aside, *foreign])
    rows = [chunk.report(line) for line in lines]
    reports, malformed = parse(rows)
    kept = [{"line": line, "row": row} for line, row in zip(lines, rows, strict=True)]
    rest = record_reports(connection, reports, malformed, raw=kept, limits=limits, at=at, actor=actor)
    return Recorded(
        merged=sum_merged([merged, rest.merged]),
        rejections=[replace(each, index=lines[each.index]) for each in rest.rejections],
    )

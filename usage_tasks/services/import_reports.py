"""Take up a chunk of a file of reports: the plain rows as a set, the others as a task's batch would."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, parse_attribution
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.services.cost_center import open_accounts
from usage_tasks.services.record import Recorded, record_reports
from usage_tasks.storage import staging
from usage_tasks.storage.sessions import Merged

Parse = Callable[[Sequence[object]], tuple[list[SessionReport], list[Rejection]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some lines of a file: `plain` are ready to copy, line number first; `values` are every row's, by its line.

    `odd` are the lines that are not plain, each with its session where that can be told.
    """

    header: Sequence[str]
    plain: Sequence[Sequence[object]]
    odd: Mapping[int, UUID | None]
    values: Mapping[int, Sequence[str]]

    def report(self, line: int) -> object:
        """Answer a row as a task would get it, empty fields left out; one of another length as it is."""
        values = self.values[line]
        if len(values) != len(self.header):
            return values
        return {name: value for name, value in zip(self.header, values, strict=True) if value}


def import_chunk(
    connection: Connection, chunk: Chunk, parse: Parse, *, limits: SpendingLimits, at: datetime, actor: Actor
) -> Recorded:
    """Merge a chunk; it ends in the rows that `record_reports` would end in. A rejection's index is its line."""
    staging.stage(connection, chunk.plain)
    aside = staging.set_aside(connection, {each for each in chunk.odd.values() if each is not None})
    accounts = [parse_attribution(account) for account in staging.list_new_accounts(connection)]
    merged, foreign = staging.merge_staged(connection)
    open_accounts(connection, accounts, limits=limits, at=at, actor=actor)
    lines = sorted([*chunk.odd, *aside, *foreign])
    rows = [chunk.report(line) for line in lines]
    reports, malformed = parse(rows)
    kept = [{"line": line, "row": row} for line, row in zip(lines, rows, strict=True)]
    rest = record_reports(connection, reports, malformed, raw=kept, limits=limits, at=at, actor=actor)
    return Recorded(
        merged=Merged(
            inserted=merged.inserted + rest.merged.inserted,
            updated=merged.updated + rest.merged.updated,
            unchanged=merged.unchanged + rest.merged.unchanged,
        ),
        rejections=[replace(each, index=lines[each.index]) for each in rest.rejections],
    )

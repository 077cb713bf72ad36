"""Reports that were refused, read again."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial

from sqlalchemy import Connection

from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.services.sessions.changes import as_reports
from usage_tasks.storage.directory.names import read_namespace
from usage_tasks.storage.sessions.quarantine import QuarantinedReport
from usage_tasks.wire.session_reports import parse_reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a report in quarantine says, as it was sent at an instant; its index is its place among those read."""

    sent_at: datetime
    found: SessionReport | Rejection


def read_again(
    connection: Connection, held: Sequence[QuarantinedReport], *, at: datetime, accepted: bool = False
) -> Sequence[Reading]:
    """Read reports again, each of the snapshot of a source if it came in one.

    A report without an observation time was observed when it was sent: if equal ones were sent at several instants, the
    first and the last of them are read. Of those that were `accepted` when they came the time of observation is not
    judged again.
    """
    namespace = cache(partial(read_namespace, connection))
    sendings = [each for number, report in enumerate(held) for each in _sendings(number, report)]
    of_files = [each for each in sendings if each.of_file]
    told, changes = as_reports(connection, [each.content for each in of_files], namespace)
    completed = [
        replace(each, content=row, is_change=place in changes)
        for place, (each, row) in enumerate(zip(of_files, told, strict=True))
    ]
    others = (each for each in sendings if not each.of_file)
    read = []
    for each in sorted([*others, *completed], key=lambda each: each.number):
        source = held[each.number].snapshot_source
        reports, rejections = parse_reports(
            [each.content], at=at, namespace=namespace, source=source, accepted=accepted
        )
        found = replace((reports or rejections)[0], index=each.number)
        if each.is_change and isinstance(found, SessionReport):
            found = replace(found, present=True)
        read.append(Reading(sent_at=each.sent_at, found=found))
    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sending:
    """A report in quarantine, by its number, as it was sent at an instant."""

    number: int
    sent_at: datetime
    content: object
    of_file: bool
    is_change: bool = False


def _sendings(number: int, held: QuarantinedReport) -> Iterable[_Sending]:
    """Yield a report as it was sent, without the line that a file's row is kept with."""
    report = json.loads(held.report)
    of_file = isinstance(report, dict) and report.keys() == {"line", "row"}
    content = report["row"] if of_file else report
    if not isinstance(content, dict) or content.get("observed_at") is not None:
        yield _Sending(number=number, sent_at=held.sent_at, content=content, of_file=of_file)
        return
    for sent_at in sorted({held.first_sent_at, held.sent_at}):
        observed = content | {"observed_at": sent_at.isoformat()}
        yield _Sending(number=number, sent_at=sent_at, content=observed, of_file=of_file)

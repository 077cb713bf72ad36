"""Reports that were refused, read again."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache, partial

from sqlalchemy import Connection

from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.services.sessions.changes import as_reports
from usage_tasks.storage.directory.names import read_namespace
from usage_tasks.storage.sessions.quarantine import QuarantinedReport
from usage_tasks.wire.session_reports import parse_reports


def read_again(
    connection: Connection, held: Sequence[QuarantinedReport], *, at: datetime, accepted: bool = False
) -> Sequence[SessionReport | Rejection]:
    """Read reports again, each of the snapshot of a source if it came in one.

    Of those that were `accepted` when they came the time of observation is not judged again.
    """
    namespace = cache(partial(read_namespace, connection))
    contents = as_reports(connection, [_content(each) for each in held], namespace)
    read: list[SessionReport | Rejection] = []
    for number, (each, content) in enumerate(zip(held, contents, strict=True)):
        reports, rejections = parse_reports(
            [content], at=at, namespace=namespace, source=each.snapshot_source, accepted=accepted
        )
        found = (reports or rejections)[0]
        read.append(replace(found, index=number))
    return read


def _content(held: QuarantinedReport) -> object:
    """Return a report as it was sent, without the line that a file's row is kept with.

    A report without an observation time was observed when it was sent, not now.
    """
    report = json.loads(held.report)
    if isinstance(report, dict) and report.keys() == {"line", "row"}:
        report = report["row"]
    if isinstance(report, dict) and report.get("observed_at") is None:
        report = report | {"observed_at": held.sent_at.isoformat()}
    return report

"""Reports that were refused, read again."""

import json
from datetime import datetime

from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.storage.sessions.quarantine import QuarantinedReport
from usage_tasks.wire.session_reports import parse_reports


def read_again(held: QuarantinedReport, *, at: datetime) -> SessionReport | Rejection:
    """Read a report again, of the snapshot of a source if it came in one."""
    reports, rejections = parse_reports([_content(held)], at=at, source=held.snapshot_source)
    return (reports or rejections)[0]


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

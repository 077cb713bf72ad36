"""The real quarter: its sessions, and what a platform would have reported of them when."""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session of the file."""

    instance_id: str
    workspace_id: str
    user_id: str
    attribution_id: str
    workspace_class: str
    created_at: datetime
    started_at: datetime
    stopped_at: datetime


def load_quarter() -> Sequence[Session]:
    """Read all sessions, in the file's order."""
    packed = files("usage_tasks.demo").joinpath("data", "metacentrum-2013q1.csv.gz").read_bytes()
    rows = csv.DictReader(gzip.decompress(packed).decode().splitlines())
    return [
        Session(
            instance_id=row["instance_id"],
            workspace_id=row["workspace_id"],
            user_id=row["user_id"],
            attribution_id=row["attribution_id"],
            workspace_class=row["workspace_class"],
            created_at=datetime.fromisoformat(row["created_at"]),
            started_at=datetime.fromisoformat(row["started_at"]),
            stopped_at=datetime.fromisoformat(row["stopped_at"]),
        )
        for row in rows
    ]


def reports_between(sessions: Sequence[Session], after: datetime, until: datetime) -> list[dict[str, str | None]]:
    """List what a platform reports in (after, until]: each session that started, and each that stopped, by then.

    A stop before the start is reported with the start, as an observer of the cluster would have seen it.
    """
    reports = []
    for session in sessions:
        ended_at = max(session.stopped_at, session.started_at)
        if after < ended_at <= until:
            reports.append(_report(session, stopped=True, observed_at=until))
        elif after < session.started_at <= until:
            reports.append(_report(session, stopped=False, observed_at=until))
    return reports


def _report(session: Session, *, stopped: bool, observed_at: datetime) -> dict[str, str | None]:
    return {
        "instance_id": session.instance_id,
        "workspace_id": session.workspace_id,
        "user_id": session.user_id,
        "attribution_id": session.attribution_id,
        "workspace_class": session.workspace_class,
        "created_at": session.created_at.isoformat(),
        "started_at": session.started_at.isoformat(),
        "stopped_at": session.stopped_at.isoformat() if stopped else None,
        "observed_at": observed_at.isoformat(),
    }

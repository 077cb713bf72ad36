"""Reports that were refused, kept as they came with the reason, so that none is lost and a person can list them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.sessions import Rejection
from usage_tasks.storage.rows import fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedReport:
    """One refused report as JSON text; `times_seen` counts how often the same one was sent."""

    field: str
    reason: str
    report: str
    times_seen: int
    first_seen_at: datetime
    last_seen_at: datetime
    actor: str


def quarantine(connection: Connection, refused: Sequence[tuple[Rejection, object]], *, actor: Actor) -> int:
    """Keep refused reports with the reason; return how many had not been seen before.

    A report is kept as JSON text, escaped to ASCII: what was refused may hold what PostgreSQL's own JSON can't. The
    same report refused for the same reason is one row that counts.
    """
    rows = {}
    for rejection, raw in refused:
        report = json.dumps(raw, sort_keys=True)
        digest = hashlib.sha256(f"{rejection.field}\n{rejection.reason}\n{report}".encode()).hexdigest()
        rows[digest] = (rejection.field, rejection.reason, report)
    statement = """
        INSERT INTO quarantined_report AS held (digest, field, reason, report, actor)
        SELECT digest, field, reason, report, :actor
        FROM unnest(CAST(:digests AS text[]), CAST(:fields AS text[]), CAST(:reasons AS text[]),
                    CAST(:reports AS text[])) AS r(digest, field, reason, report)
        ORDER BY digest
        ON CONFLICT (digest) DO UPDATE SET times_seen = held.times_seen + 1, last_seen_at = clock_timestamp()
        RETURNING (xmax = 0) AS inserted
    """
    fields, reasons, reports = zip(*rows.values(), strict=True) if rows else ((), (), ())
    found = fetch(
        connection,
        statement,
        digests=list(rows),
        fields=list(fields),
        reasons=list(reasons),
        reports=list(reports),
        actor=actor,
    )
    return sum(row.inserted for row in found)


def list_quarantined(connection: Connection, *, limit: int) -> Sequence[QuarantinedReport]:
    """List refused reports, the newest first."""
    statement = """
        SELECT field, reason, report, times_seen, first_seen_at, last_seen_at, actor
        FROM quarantined_report ORDER BY first_seen_at DESC, digest LIMIT :limit
    """
    return [QuarantinedReport(**row._mapping) for row in fetch(connection, statement, limit=limit)]

"""Reports that were refused, kept as they came with the reason, until somebody releases or drops them."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.sessions import Rejection
from usage_tasks.storage.rows import execute, fetch, fetch_one

_LOCK_KEY: Final = 7_305_213
"""Any number, the same everywhere."""

COUNT_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedReport:
    """One refused report as JSON text; `times_seen` counts how often the same one was sent.

    It was sent first as of `first_sent_at`, and last as of `sent_at`.
    """

    digest: str
    field: str
    reason: str
    report: str
    times_seen: int
    first_seen_at: datetime
    last_seen_at: datetime
    actor: str
    first_sent_at: datetime
    sent_at: datetime
    snapshot_source: str | None


_COLUMNS: Final = ", ".join(
    "COALESCE(first_sent_at, sent_at) AS first_sent_at" if name == "first_sent_at" else name
    for name in QuarantinedReport.__slots__
)

_KEEP: Final = """
    INSERT INTO quarantined_report AS held (digest, field, reason, report, actor, first_sent_at, sent_at,
        snapshot_source, instance_id)
    SELECT digest, field, reason, report, :actor, :at, :at, :source, instance_id
    FROM unnest(CAST(:digests AS text[]), CAST(:fields AS text[]), CAST(:reasons AS text[]), CAST(:reports AS text[]),
                CAST(:instances AS uuid[]))
        AS r(digest, field, reason, report, instance_id)
    ORDER BY digest
    ON CONFLICT (digest) DO UPDATE SET
        field = EXCLUDED.field, reason = EXCLUDED.reason,
        instance_id = COALESCE(EXCLUDED.instance_id, held.instance_id),
        times_seen = held.times_seen + 1, last_seen_at = clock_timestamp(),
        first_sent_at = LEAST(held.first_sent_at, held.sent_at, EXCLUDED.first_sent_at),
        sent_at = GREATEST(held.sent_at, EXCLUDED.sent_at)
    RETURNING (xmax = 0) AS inserted
"""


def quarantine(
    connection: Connection,
    refused: Sequence[tuple[Rejection, object]],
    *,
    instances: Mapping[int, UUID],
    at: datetime,
    actor: Actor,
    snapshot_source: str | None = None,
) -> int:
    """Keep refused reports with the reason; return how many had not been seen before.

    A report is kept as JSON text, escaped to ASCII: what was refused may hold what PostgreSQL's own JSON can't. The
    same report is one row, which counts and has the latest reason. `at` is when they were sent, and with
    `snapshot_source` when they were seen to run there. `instances` names, by the index of a rejection, the sessions of
    those that could be read.
    """
    rows = {}
    for rejection, raw in refused:
        report = json.dumps(raw, sort_keys=True)
        hashed = report if snapshot_source is None else f"{report}\n{snapshot_source}"
        rows[hashlib.sha256(hashed.encode()).hexdigest()] = (
            rejection.field,
            rejection.reason,
            report,
            instances.get(rejection.index),
        )
    fields, reasons, reports, sessions = zip(*rows.values(), strict=True) if rows else ((), (), (), ())
    found = fetch(
        connection,
        _KEEP,
        digests=list(rows),
        fields=list(fields),
        reasons=list(reasons),
        reports=list(reports),
        instances=list(sessions),
        at=at,
        actor=actor,
        source=snapshot_source,
    )
    return sum(row.inserted for row in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which refused reports are meant: these ids, of this field, with this text in the reason; None is any."""

    digests: Sequence[str] | None = None
    field: str | None = None
    reason: str | None = None


def list_quarantined(connection: Connection, *, limit: int) -> Sequence[QuarantinedReport]:
    """List refused reports, the newest first."""
    statement = f"SELECT {_COLUMNS} FROM quarantined_report ORDER BY first_seen_at DESC, digest LIMIT :limit"
    return [QuarantinedReport(**row._mapping) for row in fetch(connection, statement, limit=limit)]


def list_selected(
    connection: Connection, selection: Selection, *, after: QuarantinedReport | None, limit: int
) -> Sequence[QuarantinedReport]:
    """List a batch of the reports that are meant, the oldest first, from after an earlier batch's last."""
    statement = f"""
        SELECT {_COLUMNS} FROM quarantined_report
        WHERE (CAST(:digests AS text[]) IS NULL OR digest = ANY(CAST(:digests AS text[])))
            AND (CAST(:field AS text) IS NULL OR field = :field)
            AND (CAST(:reason AS text) IS NULL OR strpos(reason, :reason) > 0)
            AND (first_seen_at, digest) > (CAST(:seen AS timestamptz), CAST(:digest AS text))
        ORDER BY first_seen_at, digest LIMIT :limit
    """
    rows = fetch(
        connection,
        statement,
        digests=None if selection.digests is None else list(selection.digests),
        field=selection.field,
        reason=selection.reason,
        seen="-infinity" if after is None else after.first_seen_at,
        digest="" if after is None else after.digest,
        limit=limit,
    )
    return [QuarantinedReport(**row._mapping) for row in rows]


def list_contradicting(connection: Connection, instances: Collection[UUID]) -> Sequence[QuarantinedReport]:
    """List the reports that were refused because an earlier one of their session says something else.

    Those of snapshots are left out: their rows have the present, and are compared only when they arrive.
    """
    statement = f"""
        SELECT {_COLUMNS} FROM quarantined_report
        WHERE instance_id = ANY(CAST(:instances AS uuid[])) AND field IN ('user_id', 'workspace_class')
            AND snapshot_source IS NULL
        ORDER BY first_seen_at, digest
    """
    return [QuarantinedReport(**row._mapping) for row in fetch(connection, statement, instances=list(instances))]


def lock_releases(connection: Connection) -> None:
    """Wait for every other release or drop to end, and keep others from beginning until the transaction ends.

    Not the rows themselves: who records holds sessions first and quarantine's rows last, and so does who releases.
    """
    fetch(connection, "SELECT pg_advisory_xact_lock(:key)", key=_LOCK_KEY)


# The rows as they were read, locked in the order in which `quarantine` locks. A row that was sent again is another.
_UNCHANGED: Final = """
    unchanged AS (
        SELECT q.digest FROM quarantined_report q
        JOIN unnest(CAST(:digests AS text[]), CAST(:counts AS int[])) AS r(digest, times_seen) USING (digest)
        WHERE q.times_seen = r.times_seen ORDER BY q.digest FOR UPDATE OF q{locked}
    )
"""


def remove(connection: Connection, reports: Sequence[QuarantinedReport], *, in_use_too: bool = True) -> frozenset[str]:
    """Remove reports that were recorded or dropped. Return their digests. A report that was sent again stays.

    Without `in_use_too` so does one that another transaction is about to change: nobody is waited for.
    """
    if not reports:
        return frozenset()
    statement = f"""
        WITH {_UNCHANGED.format(locked="" if in_use_too else " SKIP LOCKED")}
        DELETE FROM quarantined_report AS held USING unchanged u WHERE held.digest = u.digest RETURNING held.digest
    """
    digests, counts = [each.digest for each in reports], [each.times_seen for each in reports]
    return frozenset(row.digest for row in fetch(connection, statement, digests=digests, counts=counts))


def note_reasons(
    connection: Connection,
    refused: Sequence[tuple[QuarantinedReport, Rejection]],
    *,
    instances: Mapping[int, UUID],
) -> int:
    """Note why reports are refused now where that is something else than before; return of how many.

    `instances` as for `quarantine`: the session of a report that could not be read before.
    """
    other = [(held, now) for held, now in refused if (held.field, held.reason) != (now.field, now.reason)]
    statement = f"""
        WITH {_UNCHANGED.format(locked="")}
        UPDATE quarantined_report AS held
        SET field = n.field, reason = n.reason, instance_id = COALESCE(n.instance_id, held.instance_id)
        FROM unchanged u JOIN unnest(CAST(:digests AS text[]), CAST(:fields AS text[]), CAST(:reasons AS text[]),
                                     CAST(:instances AS uuid[]))
            AS n(digest, field, reason, instance_id) USING (digest)
        WHERE held.digest = u.digest
    """
    return execute(
        connection,
        statement,
        digests=[held.digest for held, _ in other],
        counts=[held.times_seen for held, _ in other],
        fields=[now.field for _, now in other],
        reasons=[now.reason for _, now in other],
        instances=[instances.get(now.index) for _, now in other],
    )


def count_waiting(connection: Connection) -> int:
    """Count the reports that wait in quarantine; COUNT_MAX means so many or more."""
    statement = "SELECT count(*) AS waiting FROM (SELECT FROM quarantined_report LIMIT :limit) AS bounded"
    return int(fetch_one(connection, statement, limit=COUNT_MAX).waiting)

"""The waiting rows of the tables, in one look: for metrics, so every count is bounded by an index of open rows."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.storage.rows import fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Counts of waiting and parked rows, and the instants of the oldest, None if there are none."""

    events_pending: int
    events_parked: int
    event_oldest_at: datetime | None
    reports_pending: int
    reports_parked: int
    accounts_parked: int
    outbox_pending: int
    quarantined: int
    unposted: int
    unposted_oldest_at: datetime | None
    unposted_seconds: int
    running_seconds: int
    ledger_done_at: datetime | None


def read_backlog(connection: Connection, *, at: datetime) -> Backlog:
    """Return what waits at an instant. Unposted are sessions that had stopped by then and are not in the ledger.

    The seconds are of sessions without a ledger entry: the seconds that a correction adds are unknown.
    """
    statement = """
        SELECT
            (SELECT count(*) FROM stripe_event WHERE state = 'pending') AS events_pending,
            (SELECT count(*) FROM stripe_event WHERE state = 'parked') AS events_parked,
            (SELECT min(received_at) FROM stripe_event WHERE state = 'pending') AS event_oldest_at,
            (SELECT count(*) FROM meter_report WHERE state = 'pending') AS reports_pending,
            (SELECT count(*) FROM meter_report WHERE state = 'parked') AS reports_parked,
            (SELECT count(*) FROM stripe_customer WHERE parked_at IS NOT NULL) AS accounts_parked,
            (SELECT count(*) FROM outbox WHERE dispatched_at IS NULL) AS outbox_pending,
            (SELECT count(*) FROM quarantined_report) AS quarantined,
            unposted, unposted_oldest_at, unposted_seconds, running_seconds,
            (SELECT max(finished_at) FROM job_run WHERE job = 'usage.reconcile' AND outcome = 'done'
                AND finished_at <= (SELECT clock_timestamp())) AS ledger_done_at
        FROM (
            SELECT count(*) FILTER (WHERE stopped) AS unposted,
                   min(final_at) FILTER (WHERE stopped) AS unposted_oldest_at,
                   COALESCE(floor(sum(extract(epoch FROM final_at - started_at))
                       FILTER (WHERE stopped AND revision = 1)), 0)::bigint AS unposted_seconds,
                   COALESCE(floor(sum(extract(epoch FROM :at - started_at))
                       FILTER (WHERE NOT stopped AND started_at <= :at AND revision = 1)), 0)::bigint AS running_seconds
            FROM (
                SELECT started_at, final_at, revision, COALESCE(final_at <= :at, false) AS stopped FROM open_session
            ) AS open_then
        ) AS sessions
    """
    return Backlog(**fetch_one(connection, statement, at=at)._asdict())

"""Evidence of the state of an installation: rows that nobody takes, connections that are used, secrets that are needed.

For an operator who looks now: every statement reads an index of what is open, or stops at the first row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.storage.rows import fetch, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckRows:
    """Counts of rows that have waited for long, by the database's clock; of some kinds one of them, with its reason."""

    announcements: int
    events: int
    event: str | None
    reports: int
    report: str | None
    actions: int
    action: str | None
    holds: int


def read_stuck(connection: Connection, *, after: timedelta) -> StuckRows:
    """Count the rows that have waited for longer than `after`.

    Of the reports it counts the ones that Stripe has not accepted, unless they wait for Stripe's clock.
    """
    statement = """
        WITH moment AS (
            SELECT clock_timestamp() - CAST(:after AS interval) AS since
        ), events AS (
            SELECT concat_ws(' ', event_id, outcome) AS shown FROM stripe_event, moment
            WHERE state = 'pending' AND received_at < since
        ), reports AS (
            SELECT concat_ws(' ', attribution_id, error) AS shown FROM meter_report, moment
            WHERE state = 'pending' AND attempts > 0 AND created_at < since
                AND NOT starts_with(COALESCE(error, ''), 'early: ')
        ), actions AS (
            SELECT concat_ws(' ', operation, object_id, 'of', attribution_id) AS shown FROM stripe_action, moment
            WHERE settled_at IS NULL AND requested_at < since
        )
        SELECT
            (SELECT count(*) FROM outbox, moment WHERE dispatched_at IS NULL AND created_at < since) AS announcements,
            (SELECT count(*) FROM events) AS events, (SELECT min(shown) FROM events) AS event,
            (SELECT count(*) FROM reports) AS reports, (SELECT min(shown) FROM reports) AS report,
            (SELECT count(*) FROM actions) AS actions, (SELECT min(shown) FROM actions) AS action,
            (SELECT count(*) FROM payment_hold, moment WHERE released_at IS NULL AND release_at < since) AS holds
    """
    return StuckRows(**fetch_one(connection, statement, after=after)._asdict())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionUse:
    """How many connections are open under one limit; `limited_by` is "server", "database" or "role"."""

    limited_by: str
    used: int
    allowed: int


def read_connection_use(connection: Connection) -> Sequence[ConnectionUse]:
    """Return the use of each limit on connections. Every role may read this, also behind a pooler."""
    statement = """
        SELECT 'server' AS limited_by,
               (SELECT COALESCE(sum(numbackends), 0) FROM pg_stat_database)::int AS used,
               current_setting('max_connections')::int
                   - current_setting('superuser_reserved_connections')::int AS allowed
        UNION ALL
        SELECT 'database', (SELECT numbackends FROM pg_stat_database WHERE datid = d.oid), d.datconnlimit
        FROM pg_database AS d WHERE d.datname = current_database() AND d.datconnlimit > 0
        UNION ALL
        SELECT 'role', (SELECT count(*)::int FROM pg_stat_activity WHERE usesysid = r.oid), r.rolconnlimit
        FROM pg_roles AS r WHERE r.rolname = current_user AND r.rolconnlimit > 0
    """
    return [ConnectionUse(**row._mapping) for row in fetch(connection, statement)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDrift:
    """How many accounts the last scheduled comparison with Stripe found astray, and when it ended."""

    accounts: int
    finished_at: datetime


def find_drift(connection: Connection, *, until: datetime) -> FoundDrift | None:
    """Return the drift that the last comparison up to an instant found; None if no account has drift."""
    statement = """
        SELECT finished_at, summary -> 'astray' AS astray FROM job_run
        WHERE job = 'billing.drift_report' AND outcome = 'done' AND slot <= :until ORDER BY slot DESC LIMIT 1
    """
    for row in fetch(connection, statement, until=until):
        accounts = sum((row.astray or {}).values())
        if accounts:
            return FoundDrift(accounts=accounts, finished_at=row.finished_at)
    return None


def has_email_digests(connection: Connection) -> bool:
    """Return True if an e-mail is stored, as a digest under a key."""
    statement = "SELECT EXISTS (SELECT FROM directory_user WHERE email_digest IS NOT NULL) AS found"
    return bool(fetch_one(connection, statement).found)


def has_webhook_events(connection: Connection) -> bool:
    """Return True if an event has come by webhook."""
    return bool(
        fetch_one(connection, "SELECT EXISTS (SELECT FROM stripe_event WHERE source = 'webhook') AS found").found
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeWork:
    """What cannot go on without Stripe: accounts that pay through it, and events that are not applied."""

    accounts: int
    account: str | None
    events: int


def read_stripe_work(connection: Connection) -> StripeWork:
    """Count the accounts on `stripe`, with one of them, and the pending events of the inbox."""
    statement = """
        SELECT count(*) AS accounts, min(attribution_id) AS account,
               (SELECT count(*) FROM stripe_event WHERE state = 'pending') AS events
        FROM cost_center WHERE superseded_at IS NULL AND billing_strategy = 'stripe'
    """
    return StripeWork(**fetch_one(connection, statement)._asdict())

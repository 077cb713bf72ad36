"""Posting: sessions whose latest facts are not in the ledger leave the table of open sessions and become entries."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.errors import InvariantError
from usage_tasks.storage import keys
from usage_tasks.storage.ledger.entries import inserting
from usage_tasks.storage.plans import Plan, planned, run_plan
from usage_tasks.storage.pricing.prices import hold_prices
from usage_tasks.storage.pricing.rating_sql import RATED, has_price
from usage_tasks.storage.pricing.timelines_sql import class_of_open
from usage_tasks.storage.rows import fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """The result of one batch of posting: entries appended and their sum in credit cents."""

    entries: int
    credit_cents: int


# A session without a price in force at its start stays open; rating has no row for it.
_DUE = f"final_at <= :at AND GREATEST(ended_at, started_at) <= :at AND {has_price('held')}"

_DUE_COLUMNS = f"""
    held.attribution_id, held.instance_id, {class_of_open("held")} AS workspace_class, held.priced_from,
    held.price_keys, held.started_at, held.revision, held.posted_cents,
    GREATEST(held.ended_at, held.started_at) AS until,
    GREATEST(held.ended_at, held.started_at, held.settled_at) AS effective_at
"""


def posted_of(session: str) -> str:
    """Compose a query of what a session's entries come to, one row (entries, credit_cents, settled_at)."""
    return f"""
        SELECT count(*)::int AS entries, sum(credit_cents)::bigint AS credit_cents, max(effective_at) AS settled_at
        FROM ledger_entry
        WHERE attribution_id = {session}.attribution_id
            AND {keys.is_of_session("key", f"{session}.instance_id")}
    """


_COLUMNS = f"""
    SELECT r.attribution_id, {keys.session_key("r.instance_id", "r.revision")} AS key,
           CASE WHEN r.revision = 1 THEN 'session' ELSE 'adjustment' END AS kind,
           r.credit_cents - r.posted_cents AS credit_cents, r.effective_at,
           CASE WHEN r.revision = 1 THEN 'Session of class ' ELSE 'Correction of a session of class ' END
               || r.workspace_class AS description,
           r.instance_id
"""
ENTRIES = f"{_COLUMNS} FROM rated r"
"""The ledger entries of rated sessions, of each the one of its next revision. Posting and plans share it."""

# As the indexes have them, so that each page is touched once a batch; but for the word that accounts begin with:
# sorting compares the first bytes.
_ORDERED = f"{_COLUMNS}, r.started_at FROM rated r ORDER BY substr(r.attribution_id, 6), r.instance_id"

# The claimed rows are deleted in place, and only deleted rows are rated: a row that moved meanwhile, because its facts
# were corrected between the look and the lock, stays for the next batch.
_POST = f"""
    WITH claimed AS (
        SELECT held.ctid FROM open_session AS held WHERE {_DUE}
        LIMIT :limit FOR UPDATE OF held SKIP LOCKED
    ), session AS (
        DELETE FROM open_session AS held USING claimed WHERE held.ctid = claimed.ctid
        RETURNING {_DUE_COLUMNS}
    ), {RATED}, posted AS (
        {inserting(_ORDERED, subject="instance_id, session_started_at")}
        RETURNING credit_cents
    )
    SELECT count(*) AS entries, COALESCE(sum(credit_cents), 0)::bigint AS credit_cents,
           (SELECT count(*) FROM session) AS taken
    FROM posted
"""

_PLAN = f"""
    WITH session AS (SELECT {_DUE_COLUMNS} FROM open_session AS held WHERE {_DUE}), {RATED}, entry AS ({ENTRIES})
    {planned("entry", order="effective_at, attribution_id, key", money=True)}
"""


def post_stopped(connection: Connection, *, at: datetime, limit: int) -> Posted:
    """Post up to `limit` sessions that had stopped by `at` and whose latest facts are not in the ledger.

    A stop is a reported or an inferred one.
    Sessions that another worker is posting are left to it. A session posted twice breaks the ledger's key.
    """
    hold_prices(connection)
    row = fetch_one(connection, _POST, at=at, limit=limit)
    if row.entries != row.taken:
        raise InvariantError(f"posting: {row.taken} sessions were taken out and {row.entries} entries written")
    return Posted(entries=row.entries, credit_cents=row.credit_cents)


def plan_stopped(connection: Connection, *, at: datetime) -> Plan:
    """Return every entry that `post_stopped` would append, those of sessions in other workers' hands included."""
    return run_plan(connection, _PLAN, at=at)

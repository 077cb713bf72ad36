"""Workspace instances: what was reported of each session, merged so that the order of reports does not matter."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.storage.plans import Plan, planned, run_plan
from usage_tasks.storage.prices import hold_prices
from usage_tasks.storage.rating import RATED
from usage_tasks.storage.rows import as_json, fetch, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a batch of reports did: rows that are new, rows whose facts changed, reports that brought nothing."""

    inserted: int
    updated: int
    unchanged: int


def _rank(row: str) -> str:
    """A total order of reports, so that any order of arrival ends in the same facts.

    A stop outranks no stop, then the later observation holds; the rest only breaks ties.
    """
    finality = f"({row}.stopped_at IS NOT NULL)::int * 2 + ({row}.stopping_at IS NOT NULL)::int"
    ties = ("stopped_at", "stopping_at", "created_at")
    optional = ", ".join(f"COALESCE({row}.{column}, '-infinity')" for column in ties)
    rest = ", ".join(f"{row}.{column}" for column in ("started_at", "workspace_class", "user_id", "workspace_id"))
    return f"ROW({finality}, {row}.observed_at, {optional}, {rest})"


_FACTS = "user_id, workspace_id, workspace_class, created_at, started_at, stopping_at, stopped_at, observed_at"
_BILLED = ("workspace_class", "started_at", "stopping_at", "stopped_at")

_MERGE = f"""
    WITH report AS (
        SELECT DISTINCT ON (r.instance_id) r.*
        FROM jsonb_to_recordset(CAST(:reports AS jsonb)) AS r(
            instance_id uuid, attribution_id text, user_id uuid, workspace_id text, workspace_class text,
            created_at timestamptz, started_at timestamptz, stopping_at timestamptz, stopped_at timestamptz,
            observed_at timestamptz)
        ORDER BY r.instance_id, {_rank("r")} DESC
    ), written AS (
        INSERT INTO workspace_instance AS held (instance_id, attribution_id, {_FACTS})
        SELECT instance_id, attribution_id, {_FACTS} FROM report ORDER BY instance_id
        ON CONFLICT (instance_id) DO UPDATE SET
            ({_FACTS}) = ROW({", ".join("EXCLUDED." + column for column in _FACTS.split(", "))}),
            recorded_at = clock_timestamp(),
            revision = held.revision + (
                held.posted_revision = held.revision
                AND ({", ".join("held." + column for column in _BILLED)})
                    IS DISTINCT FROM ({", ".join("EXCLUDED." + column for column in _BILLED)})
            )::int
        WHERE held.attribution_id = EXCLUDED.attribution_id AND {_rank("EXCLUDED")} > {_rank("held")}
        RETURNING (xmax = 0) AS inserted
    )
    SELECT count(*) FILTER (WHERE inserted) AS inserted, count(*) FILTER (WHERE NOT inserted) AS updated FROM written
"""


def merge_reports(connection: Connection, reports: Sequence[SessionReport]) -> Merged:
    """Write what a batch of reports adds to what is known; a final session whose bill changes is open again.

    A report for a session of another account changes nothing: see `list_foreign`.
    """
    row = fetch_one(connection, _MERGE, reports=as_json([asdict(report) for report in reports]))
    return Merged(inserted=row.inserted, updated=row.updated, unchanged=len(reports) - row.inserted - row.updated)


def list_foreign(connection: Connection, reports: Sequence[SessionReport]) -> Mapping[UUID, AttributionId]:
    """Name the sessions of a batch that stand on another account than reported, with the account they stand on."""
    statement = """
        SELECT held.instance_id, held.attribution_id
        FROM workspace_instance held
        JOIN unnest(CAST(:instances AS uuid[]), CAST(:accounts AS text[])) AS r(instance_id, attribution_id)
            ON r.instance_id = held.instance_id AND r.attribution_id <> held.attribution_id
    """
    instances = [report.instance_id for report in reports]
    accounts = [report.attribution_id for report in reports]
    return {
        row.instance_id: row.attribution_id
        for row in fetch(connection, statement, instances=instances, accounts=accounts)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What one batch of posting did: entries appended and their sum in credit cents."""

    entries: int
    credit_cents: int


_STOPPED = """
    SELECT instance_id, attribution_id, workspace_class, started_at, revision, posted_revision, posted_cents,
           GREATEST(ended_at, started_at) AS until,
           GREATEST(ended_at, started_at, settled_at) AS effective_at
    FROM workspace_instance
    WHERE stopped_at IS NOT NULL AND posted_revision < revision
        AND stopped_at <= :at AND GREATEST(ended_at, started_at) <= :at
"""

ENTRIES = """
    SELECT s.attribution_id, 'session:' || s.instance_id || ':' || s.revision AS key,
           CASE WHEN s.posted_revision = 0 THEN 'session' ELSE 'adjustment' END AS kind,
           r.credit_cents - s.posted_cents AS credit_cents, s.effective_at,
           CASE WHEN s.posted_revision = 0 THEN 'Session of class ' ELSE 'Correction of a session of class ' END
               || s.workspace_class AS description,
           s.instance_id
    FROM session s JOIN rated r USING (instance_id)
"""
"""The ledger entries of a CTE `session`, rated: of those a revision is to be posted of. Posting and plans share it."""

_POST = f"""
    WITH session AS (
        {_STOPPED}
        ORDER BY stopped_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), {RATED}, closed AS (
        UPDATE workspace_instance AS held
        SET posted_revision = s.revision, posted_cents = r.credit_cents, settled_at = s.effective_at
        FROM session s JOIN rated r USING (instance_id)
        WHERE held.instance_id = s.instance_id
    ), posted AS (
        INSERT INTO ledger_entry
            (attribution_id, key, kind, credit_cents, effective_at, description, instance_id)
        {ENTRIES}
        ORDER BY s.attribution_id, 2  -- as the index has them: a page of it is touched once a batch
        RETURNING credit_cents
    )
    SELECT count(*) AS entries, COALESCE(sum(credit_cents), 0)::bigint AS credit_cents FROM posted
"""

_PLAN = f"""
    WITH session AS ({_STOPPED}), {RATED}, entry AS ({ENTRIES})
    {planned("entry", order="effective_at, attribution_id, key", money=True)}
"""


def post_stopped(connection: Connection, *, at: datetime, limit: int) -> Posted:
    """Post up to `limit` sessions that had stopped by `at` and whose latest facts are not in the ledger.

    Sessions that another worker is posting are left to it. A session posted twice breaks the ledger's key.
    """
    hold_prices(connection)
    row = fetch_one(connection, _POST, at=at, limit=limit)
    return Posted(entries=row.entries, credit_cents=row.credit_cents)


def plan_stopped(connection: Connection, *, at: datetime) -> Plan:
    """Answer every entry that `post_stopped` would append, those of sessions in other workers' hands included."""
    return run_plan(connection, _PLAN, at=at)

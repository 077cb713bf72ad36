"""Cost centers: one current version an account, every earlier one kept."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, Row

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.cycles import Cycle
from usage_tasks.domain.errors import NoSuchError, StaleVersionError
from usage_tasks.storage.rows import execute, execute_many, fetch, fetch_one, rows_as_json

_COLUMNS = "attribution_id, version, billing_strategy, spending_limit, cycle_anchor_at, cycle_number"

_LOCK_ATTEMPTS_MAX = 20

_INSERT = f"""
    INSERT INTO cost_center ({_COLUMNS}, cycle_started_at, next_billing_at, actor)
    VALUES (:attribution_id, :version, :billing_strategy, :spending_limit, :cycle_anchor_at, :cycle_number,
            :cycle_started_at, :next_billing_at, :actor)
"""


def list_unknown(connection: Connection, accounts: Collection[AttributionId]) -> Sequence[AttributionId]:
    """Name those of the accounts that are not open, each once."""
    statement = """
        SELECT DISTINCT asked FROM jsonb_array_elements_text(CAST(:accounts AS jsonb)) AS asked
        WHERE NOT EXISTS (SELECT 1 FROM cost_center c WHERE c.attribution_id = asked)
    """
    return [AttributionId(row.asked) for row in fetch(connection, statement, accounts=rows_as_json(list(accounts)))]


def add_firsts(connection: Connection, firsts: Sequence[CostCenter], *, actor: Actor) -> Sequence[AttributionId]:
    """Insert the first version of each account that has none; ten at once make one. Return those opened here."""
    insert = f"""
        INSERT INTO cost_center ({_COLUMNS}, cycle_started_at, next_billing_at, actor)
        SELECT attribution_id, 1, strategy, spending_limit, anchor_at, 0, anchor_at, next_billing_at, :actor
        FROM unnest(CAST(:accounts AS text[]), CAST(:strategies AS text[]), CAST(:limits AS bigint[]),
                    CAST(:anchors AS timestamptz[]), CAST(:ends AS timestamptz[]))
            AS t(attribution_id, strategy, spending_limit, anchor_at, next_billing_at)
        ORDER BY attribution_id
        ON CONFLICT DO NOTHING
        RETURNING attribution_id
    """
    opened = fetch(
        connection,
        insert,
        accounts=[each.attribution_id for each in firsts],
        strategies=[each.billing_strategy.value for each in firsts],
        limits=[each.spending_limit for each in firsts],
        anchors=[each.cycle.anchor_at for each in firsts],
        ends=[each.next_billing_at for each in firsts],
        actor=actor,
    )
    return [row.attribution_id for row in opened]


def set_first_limit(connection: Connection, opened: Sequence[AttributionId], *, spending_limit: int) -> None:
    """Set the limit, in credits, of accounts that this transaction has opened: nobody has seen another one."""
    statement = """
        UPDATE cost_center SET spending_limit = :spending_limit
        WHERE attribution_id = ANY(CAST(:accounts AS text[])) AND version = 1
    """
    execute(connection, statement, accounts=list(opened), spending_limit=spending_limit)


def find_current(connection: Connection, attribution_id: AttributionId) -> CostCenter | None:
    """Return an account's current version; None for an account that nobody opened."""
    statement = f"SELECT {_COLUMNS} FROM cost_center WHERE attribution_id = :account AND superseded_at IS NULL"
    rows = fetch(connection, statement, account=attribution_id)
    return _cost_center(rows[0]) if rows else None


def get_current(connection: Connection, attribution_id: AttributionId) -> CostCenter:
    """Return an account's current version; raise InvalidInputError for an account that nobody opened."""
    found = find_current(connection, attribution_id)
    if found is None:
        raise NoSuchError("attribution_id", attribution_id, "account")
    return found


def lock_current(connection: Connection, attribution_id: AttributionId) -> CostCenter:
    """Return an account's current version and keep others from changing it until the transaction ends.

    Raises StaleVersionError if it changes faster than it can be locked.
    """
    statement = f"""
        SELECT {_COLUMNS}, superseded_at FROM cost_center WHERE attribution_id = :account
        ORDER BY version DESC LIMIT 1 FOR UPDATE
    """
    for _ in range(_LOCK_ATTEMPTS_MAX):
        row = fetch(connection, statement, account=attribution_id)[0]
        if row.superseded_at is None:  # else somebody made a new version while this one was waited for
            return _cost_center(row)
    raise StaleVersionError(f"cost center: {attribution_id} changes too fast to be locked: try again")


def find_latest_limit(connection: Connection, attribution_id: AttributionId, strategy: BillingStrategy) -> int | None:
    """Return the limit, in credits, of the last version that was on a strategy; None if none ever was."""
    statement = """
        SELECT spending_limit FROM cost_center WHERE attribution_id = :account AND billing_strategy = :strategy
        ORDER BY version DESC LIMIT 1
    """
    rows = fetch(connection, statement, account=attribution_id, strategy=strategy)
    return rows[0].spending_limit if rows else None


def claim_due(
    connection: Connection,
    *,
    at: datetime,
    limit: int,
    only: AttributionId | None = None,
    excluding: Sequence[AttributionId] = (),
) -> list[CostCenter]:
    """Lock up to `limit` cost centers on strategy other whose cycle ended by `at`, oldest first.

    Those that another worker holds are left to it, except where `only` names the one account that is asked for.
    """
    ended = "billing_strategy = 'other' AND next_billing_at <= :at"
    return _claim(
        connection, ended, order="next_billing_at, attribution_id", at=at, limit=limit, only=only, excluding=excluding
    )


def claim_expired_grants(
    connection: Connection,
    *,
    at: datetime,
    limit: int,
    only: AttributionId | None = None,
    excluding: Sequence[AttributionId] = (),
) -> list[CostCenter]:
    """Lock up to `limit` cost centers of accounts with a grant that expired by `at` and is not settled.

    Those that another worker holds are left to it, except where `only` names the one account that is asked for.
    """
    expired = """
        attribution_id IN (SELECT attribution_id FROM credit_grant WHERE closed_at IS NULL AND expires_at <= :at)
    """
    return _claim(connection, expired, order="attribution_id", at=at, limit=limit, only=only, excluding=excluding)


def _claim(
    connection: Connection,
    which: str,
    *,
    order: str,
    at: datetime,
    limit: int,
    only: AttributionId | None,
    excluding: Sequence[AttributionId],
) -> list[CostCenter]:
    statement = f"""
        SELECT {_COLUMNS} FROM cost_center
        WHERE superseded_at IS NULL AND {which}
            AND (CAST(:only AS text) IS NULL OR attribution_id = :only)
            AND attribution_id <> ALL(CAST(:excluding AS text[]))
        ORDER BY {order} LIMIT :limit FOR UPDATE {"" if only else "SKIP LOCKED"}
    """
    rows = fetch(connection, statement, at=at, limit=limit, only=only, excluding=list(excluding))
    return [_cost_center(row) for row in rows]


def append_versions(connection: Connection, versions: Sequence[CostCenter], *, actor: Actor) -> None:
    """Make each given version its account's current one; raise StaleVersionError if another came first."""
    superseded = execute(
        connection,
        """
        UPDATE cost_center AS held SET superseded_at = clock_timestamp()
        FROM unnest(CAST(:accounts AS text[]), CAST(:versions AS int[])) AS n(attribution_id, version)
        WHERE held.attribution_id = n.attribution_id AND held.version = n.version - 1
            AND held.superseded_at IS NULL
        """,
        accounts=[new.attribution_id for new in versions],
        versions=[new.version for new in versions],
    )
    if superseded != len(versions):
        raise StaleVersionError(
            f"cost center: {len(versions) - superseded} of {len(versions)} changed meanwhile: read again"
        )
    execute_many(connection, _INSERT, [_parameters(new, actor) for new in versions])


def _parameters(version: CostCenter, actor: Actor) -> dict[str, object]:
    return {
        "attribution_id": version.attribution_id,
        "version": version.version,
        "billing_strategy": version.billing_strategy.value,
        "spending_limit": version.spending_limit,
        "cycle_anchor_at": version.cycle.anchor_at,
        "cycle_number": version.cycle.number,
        "cycle_started_at": version.cycle.started_at,
        "next_billing_at": version.cycle.ends_at,
        "actor": actor,
    }


def _cost_center(row: Row[tuple[object, ...]]) -> CostCenter:
    return CostCenter(
        attribution_id=row.attribution_id,
        version=row.version,
        billing_strategy=BillingStrategy(row.billing_strategy),
        spending_limit=row.spending_limit,
        cycle=Cycle(anchor_at=row.cycle_anchor_at, number=row.cycle_number),
    )


def find_oldest_paying(connection: Connection) -> datetime | None:
    """Find the earliest instant since which an account with a customer in Stripe has had its billing cycle."""
    statement = """
        SELECT min(c.cycle_anchor_at) AS oldest_at
        FROM stripe_customer s JOIN cost_center c USING (attribution_id) WHERE s.stripe_customer_id IS NOT NULL
    """
    oldest_at: datetime | None = fetch_one(connection, statement).oldest_at
    return oldest_at

"""Grants: their terms, what of them lapsed, and what is left; what they paid stands in the ledger."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, Row

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.grants import Burn, GrantTerms, OpenGrant
from usage_tasks.storage import keys
from usage_tasks.storage.rows import as_json, execute, fetch, fetch_one

_TERMS = "attribution_id, key, amount_cents, priority, effective_at, expires_at, rollover_cap_cents, description"


def spent(by: str = "'infinity'") -> str:
    """Write what grant `g` has paid and what of it has lapsed by an instant, as an SQL expression in cents."""
    return f"""((
        SELECT COALESCE(-sum(e.credit_cents), 0) FROM ledger_entry e
        WHERE e.attribution_id = g.attribution_id AND e.effective_at <= {by}
            AND {keys.is_of_grant("e.key", "g.number")}
    ) + (
        SELECT COALESCE(sum(l.credit_cents), 0) FROM grant_lapse l
        WHERE l.attribution_id = g.attribution_id AND l.number = g.number AND l.lapsed_at <= {by}
    ))"""


AVAILABLE = f"""
    available AS (
        SELECT a.attribution_id, sum(g.amount_cents - {spent("a.at")})::bigint AS credit_cents
        FROM asked a
        JOIN credit_grant g ON g.attribution_id = a.attribution_id AND g.effective_at <= a.at
            AND (g.closed_at IS NULL OR g.closed_at > a.at) AND (g.expires_at IS NULL OR g.expires_at > a.at)
        GROUP BY a.attribution_id
    )
"""
"""A CTE `available(attribution_id, credit_cents)`, what grants could pay, over a CTE `asked(attribution_id, at)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldGrant:
    """A grant as it stands: its terms under its number."""

    number: int
    terms: GrantTerms


def find_grant(connection: Connection, attribution_id: AttributionId, key: str) -> HeldGrant | None:
    """Return the grant of a caller's key; None if there is none."""
    statement = f"SELECT number, {_TERMS} FROM credit_grant WHERE attribution_id = :account AND key = :key"
    rows = fetch(connection, statement, account=attribution_id, key=key)
    return _held(rows[0]) if rows else None


def insert_grant(connection: Connection, terms: GrantTerms, *, actor: Actor) -> HeldGrant:
    """Store a grant under the account's next number; the caller holds the account's cost center."""
    statement = f"""
        INSERT INTO credit_grant (number, actor, {_TERMS})
        SELECT 1 + COALESCE(max(number), 0), :actor, :attribution_id, :key, :amount_cents, :priority, :effective_at,
               :expires_at, :rollover_cap_cents, :description
        FROM credit_grant WHERE attribution_id = :attribution_id
        RETURNING number, {_TERMS}
    """
    return _held(fetch_one(connection, statement, actor=actor, **asdict(terms)))


def _held(row: Row[tuple[object, ...]]) -> HeldGrant:
    terms = {**row._mapping}
    return HeldGrant(number=terms.pop("number"), terms=GrantTerms(**terms))


def list_open(connection: Connection, accounts: Sequence[AttributionId]) -> Mapping[AttributionId, Sequence[OpenGrant]]:
    """List the grants of accounts of which something is left, by account; one without has no item."""
    statement = f"""
        SELECT g.attribution_id, g.number, g.priority, g.effective_at, g.expires_at, g.rollover_cap_cents,
               (g.amount_cents - {spent()})::bigint AS remaining_cents,
               ARRAY(
                   SELECT e.effective_at FROM ledger_entry e WHERE e.attribution_id = g.attribution_id
                       AND {keys.is_of_grant("e.key", "g.number")}
               ) AS burnt_at
        FROM credit_grant g
        WHERE g.attribution_id = ANY(CAST(:accounts AS text[])) AND g.closed_at IS NULL
    """
    found: dict[AttributionId, list[OpenGrant]] = defaultdict(list)
    for row in fetch(connection, statement, accounts=list(accounts)):
        found[row.attribution_id].append(OpenGrant(**row._mapping))
    return dict(found)


def has_expired(connection: Connection, attribution_id: AttributionId, *, at: datetime) -> bool:
    """Return True if a grant of an account has expired by an instant and is not settled."""
    statement = """
        SELECT EXISTS (
            SELECT 1 FROM credit_grant WHERE attribution_id = :account AND expires_at <= :at AND closed_at IS NULL
        ) AS found
    """
    return bool(fetch_one(connection, statement, account=attribution_id, at=at).found)


def append_lapses(connection: Connection, burns: Iterable[tuple[Burn, datetime]]) -> None:
    """Book what lapsed at a settlement's instant, and close the grants of which nothing is left."""
    rows = [
        {
            "attribution_id": burn.grant.attribution_id,
            "number": burn.grant.number,
            "at": at,
            "credit_cents": burn.lapsed_cents,
            "reason": burn.reason,
            "closed": burn.left_cents == 0,
        }
        for burn, at in burns
        if burn.lapsed_cents or not burn.left_cents
    ]
    if not rows:
        return
    statement = """
        WITH burn AS (
            SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS b(
                attribution_id text, number int, at timestamptz, credit_cents bigint, reason text, closed boolean)
        ), lapsed AS (
            INSERT INTO grant_lapse (attribution_id, number, lapsed_at, credit_cents, reason)
            SELECT attribution_id, number, at, credit_cents, reason FROM burn WHERE credit_cents > 0
        )
        UPDATE credit_grant AS held SET closed_at = burn.at FROM burn
        WHERE held.attribution_id = burn.attribution_id AND held.number = burn.number AND burn.closed
            AND held.closed_at IS NULL
    """
    execute(connection, statement, rows=as_json(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantAsOf:
    """A grant as it stood at an instant, with what was left of it then."""

    key: str
    description: str
    amount_cents: CreditCents
    open: OpenGrant


def list_as_of(
    connection: Connection, attribution_id: AttributionId, *, at: datetime, limit: int
) -> Sequence[GrantAsOf]:
    """List up to `limit` grants of an account that were effective or announced, the newest first."""
    statement = f"""
        SELECT g.attribution_id, g.number, g.key, g.priority, g.amount_cents, g.effective_at, g.expires_at,
               g.rollover_cap_cents, g.description, (g.amount_cents - {spent(":at")})::bigint AS remaining_cents
        FROM credit_grant g WHERE g.attribution_id = :account
        ORDER BY g.number DESC LIMIT :limit
    """
    rows = [{**row._mapping} for row in fetch(connection, statement, account=attribution_id, at=at, limit=limit)]
    return [
        GrantAsOf(
            key=row.pop("key"),
            description=row.pop("description"),
            amount_cents=row.pop("amount_cents"),
            open=OpenGrant(**row),
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantMovement:
    """A decrease of a grant: `burn`, by usage of the cycle from `cycle_started_at`; or the reason why cents lapsed."""

    at: datetime
    what: str
    credit_cents: CreditCents
    cycle_started_at: datetime | None


def list_movements(
    connection: Connection, attribution_id: AttributionId, *, at: datetime
) -> Mapping[int, Sequence[GrantMovement]]:
    """List the decreases of each grant of an account by an instant, oldest first, by the grant's number.

    The cycle of a burn is the last cycle that started before it.
    """
    statement = f"""
        SELECT {keys.grant_number_of("e.key")}::int AS number, e.effective_at AS at, 'burn' AS what,
               -e.credit_cents AS credit_cents, (
                   SELECT max(c.cycle_started_at) FROM cost_center c
                   WHERE c.attribution_id = e.attribution_id AND c.cycle_started_at < e.effective_at
               ) AS cycle_started_at
        FROM ledger_entry e
        WHERE e.attribution_id = :account AND {keys.is_of_any_grant("e.key")} AND e.effective_at <= :at
        UNION ALL
        SELECT number, lapsed_at, reason, credit_cents, NULL
        FROM grant_lapse WHERE attribution_id = :account AND lapsed_at <= :at
        ORDER BY at, number, what
    """
    found: dict[int, list[GrantMovement]] = defaultdict(list)
    for row in fetch(connection, statement, account=attribution_id, at=at):
        movement = {**row._mapping}
        found[movement.pop("number")].append(GrantMovement(**movement))
    return found

"""Effective-dated prices of the workspace classes: versions, never edited, from the configuration file or by hand.

The column `workspace_class` has price keys: `large` while it runs, `large:suspended` in another state.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.prices import ALL_TIME
from usage_tasks.domain.rating import PER_SECOND, ChargeRule, PriceVersion
from usage_tasks.storage.rows import execute, fetch

_LOCK_KEY: Final = 7_305_212
"""Any number, the same everywhere."""

_COMPARED: Final = """
    WITH configured AS (
        SELECT * FROM unnest(CAST(:classes AS text[]), CAST(:prices AS numeric[]), CAST(:minimums AS bigint[]),
                             CAST(:steps AS int[]))
            AS c(workspace_class, credits_per_minute, minimum_cents, rounding_seconds)
    ), published AS (
        SELECT DISTINCT ON (workspace_class) workspace_class, credits_per_minute, minimum_cents, rounding_seconds
        FROM price_version WHERE origin = 'configuration' ORDER BY workspace_class, effective_from DESC
    )
"""
_DIFFERS: Final = """
    FROM configured c LEFT JOIN published USING (workspace_class)
    WHERE (published.credits_per_minute, published.minimum_cents, published.rounding_seconds)
        IS DISTINCT FROM (c.credits_per_minute, c.minimum_cents, c.rounding_seconds)
"""

# A class that the file has not named before holds from the beginning where nobody has, else from now on.
_PUBLISH: Final = f"""
    {_COMPARED}
    INSERT INTO price_version
        (workspace_class, effective_from, credits_per_minute, minimum_cents, rounding_seconds, origin, actor)
    SELECT c.workspace_class,
           CASE WHEN EXISTS (SELECT 1 FROM price_version v WHERE v.workspace_class = c.workspace_class)
               THEN :at ELSE CAST(:first AS timestamptz) END,
           c.credits_per_minute, c.minimum_cents, c.rounding_seconds, 'configuration', :actor
    {_DIFFERS}
    ON CONFLICT DO NOTHING
"""

_LATER = """
    SELECT workspace_class, max(effective_from) AS effective_from FROM price_version
    WHERE workspace_class = ANY(CAST(:classes AS text[])) AND origin = 'configuration'
    GROUP BY workspace_class HAVING max(effective_from) >= :at AND max(effective_from) > CAST(:first AS timestamptz)
"""

_NO_RULES: Final[Mapping[str, ChargeRule]] = {}


def publish_prices(
    connection: Connection,
    prices: Mapping[str, Decimal],
    *,
    at: datetime,
    actor: str,
    rules: Mapping[str, ChargeRule] = _NO_RULES,
) -> int:
    """Add a version for each class that changed in the file since its last publication, in force from `at`.

    Returns the number of versions. A new class's first version holds from the beginning of time. Usage before `at`
    keeps its price, and an unchanged file does not undo a version added by hand. A class without a rule is charged to
    the second.
    Raises InvalidInputError for an instant that is not later than a class's latest version from the file.
    """
    later = fetch(connection, _LATER, classes=list(prices), at=at, first=ALL_TIME)
    if later:
        allowed = f"later than the latest price of {later[0].workspace_class}, {later[0].effective_from.isoformat()}"
        raise InvalidInputError("at", at.isoformat(), allowed)
    return execute(connection, _PUBLISH, first=ALL_TIME, at=at, actor=actor, **_configured(prices, rules))


def list_unpublished(
    connection: Connection, prices: Mapping[str, Decimal], *, rules: Mapping[str, ChargeRule] = _NO_RULES
) -> Sequence[str]:
    """List the classes for which `publish_prices` would add a version: their prices are not in force yet."""
    statement = f"{_COMPARED} SELECT c.workspace_class {_DIFFERS} ORDER BY c.workspace_class"
    return [row.workspace_class for row in fetch(connection, statement, **_configured(prices, rules))]


def _configured(prices: Mapping[str, Decimal], rules: Mapping[str, ChargeRule]) -> dict[str, object]:
    return {
        "classes": list(prices),
        "prices": list(prices.values()),
        "minimums": [rules.get(each, PER_SECOND).minimum_cents for each in prices],
        "steps": [rules.get(each, PER_SECOND).rounding_seconds for each in prices],
    }


def list_price_keys(connection: Connection) -> frozenset[str]:
    """Name every class and state that has a price: `class` while it runs, else `class:state`."""
    return frozenset(
        row.workspace_class for row in fetch(connection, "SELECT DISTINCT workspace_class FROM price_version")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVersion:
    """A price version of a class in a state, and where it came from: the configuration file or an operator."""

    price_key: str
    version: PriceVersion
    origin: str
    actor: str
    created_at: datetime


def list_versions(connection: Connection, only: str | None = None) -> Sequence[ListedVersion]:
    """List the versions of one price key, or of all, each key's in rising order."""
    statement = """
        SELECT workspace_class, effective_from, credits_per_minute, minimum_cents, rounding_seconds, origin, actor,
               created_at
        FROM price_version WHERE CAST(:only AS text) IS NULL OR workspace_class = :only
        ORDER BY workspace_class, effective_from
    """
    return [
        ListedVersion(
            price_key=row.workspace_class,
            version=PriceVersion(
                effective_from=row.effective_from,
                credits_per_minute=row.credits_per_minute,
                rule=ChargeRule(minimum_cents=CreditCents(row.minimum_cents), rounding_seconds=row.rounding_seconds),
            ),
            origin=row.origin,
            actor=row.actor,
            created_at=row.created_at,
        )
        for row in fetch(connection, statement, only=only)
    ]


def append_version(connection: Connection, price_key: str, version: PriceVersion, *, actor: str) -> bool:
    """Add a version by hand; return True if it is new: one of the same class and instant stands."""
    statement = """
        INSERT INTO price_version
            (workspace_class, effective_from, credits_per_minute, minimum_cents, rounding_seconds, origin, actor)
        VALUES (:price_key, :effective_from, :credits_per_minute, :minimum_cents, :rounding_seconds, 'operator',
                :actor)
        ON CONFLICT DO NOTHING
    """
    added = execute(
        connection,
        statement,
        price_key=price_key,
        effective_from=version.effective_from,
        credits_per_minute=version.credits_per_minute,
        minimum_cents=version.rule.minimum_cents,
        rounding_seconds=version.rule.rounding_seconds,
        actor=actor,
    )
    return added == 1


def hold_prices(connection: Connection) -> None:
    """Keep prices from being changed until the transaction ends; many may hold them at once.

    A posting holds them first: a posting that had read the old prices would be missed by the change.
    """
    fetch(connection, "SELECT pg_advisory_xact_lock_shared(:key)", key=_LOCK_KEY)


def lock_prices(connection: Connection) -> None:
    """Wait for every posting to end and keep others from beginning until the transaction ends."""
    fetch(connection, "SELECT pg_advisory_xact_lock(:key)", key=_LOCK_KEY)


def list_histories(connection: Connection, price_keys: Iterable[str]) -> Mapping[str, Sequence[PriceVersion]]:
    """Return every version that each of these price keys ever had or will have, in rising order."""
    asked = frozenset(price_keys)
    histories: dict[str, list[PriceVersion]] = {}
    for listed in list_versions(connection):
        if listed.price_key in asked:
            histories.setdefault(listed.price_key, []).append(listed.version)
    return histories

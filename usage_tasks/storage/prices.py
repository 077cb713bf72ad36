"""Effective-dated prices of the workspace classes."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.rating import PriceVersion
from usage_tasks.storage.rows import execute, fetch

FIRST_EFFECTIVE_FROM: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""A class's first price holds for all time before it too; no session starts earlier than this."""

_PUBLISH = """
    WITH configured AS (
        SELECT * FROM unnest(CAST(:classes AS text[]), CAST(:prices AS numeric[])) AS c(workspace_class, price)
    ), latest AS (
        SELECT DISTINCT ON (workspace_class) workspace_class, effective_from, credits_per_minute
        FROM price_version ORDER BY workspace_class, effective_from DESC
    )
    INSERT INTO price_version (workspace_class, effective_from, credits_per_minute, actor)
    SELECT c.workspace_class,
           CASE WHEN latest.workspace_class IS NULL THEN CAST(:first AS timestamptz) ELSE :at END,
           c.price, :actor
    FROM configured c LEFT JOIN latest USING (workspace_class)
    WHERE latest.credits_per_minute IS DISTINCT FROM c.price
    ON CONFLICT DO NOTHING
"""

_LATER = """
    SELECT workspace_class, max(effective_from) AS effective_from FROM price_version
    WHERE workspace_class = ANY(CAST(:classes AS text[]))
    GROUP BY workspace_class HAVING max(effective_from) >= :at AND max(effective_from) > CAST(:first AS timestamptz)
"""


def publish_prices(connection: Connection, prices: Mapping[str, Decimal], *, at: datetime, actor: str) -> int:
    """Add a version for each class whose price differs from its latest one, in force from `at`; return how many.

    A new class's first version holds from the beginning of time. What ran before `at` keeps its price.
    Raises InvalidInputError for an instant that is not later than a class's latest version.
    """
    later = fetch(connection, _LATER, classes=list(prices), at=at, first=FIRST_EFFECTIVE_FROM)
    if later:
        allowed = f"later than the latest price of {later[0].workspace_class}, {later[0].effective_from.isoformat()}"
        raise InvalidInputError("at", at.isoformat(), allowed)
    return execute(
        connection,
        _PUBLISH,
        classes=list(prices),
        prices=list(prices.values()),
        first=FIRST_EFFECTIVE_FROM,
        at=at,
        actor=actor,
    )


def list_classes(connection: Connection) -> frozenset[str]:
    """Name every workspace class that has a price."""
    return frozenset(
        row.workspace_class for row in fetch(connection, "SELECT DISTINCT workspace_class FROM price_version")
    )


def list_histories(connection: Connection, classes: Iterable[str]) -> Mapping[str, Sequence[PriceVersion]]:
    """Answer every price that each of these classes ever had or will have, in rising order."""
    statement = """
        SELECT workspace_class, effective_from, credits_per_minute FROM price_version
        WHERE workspace_class = ANY(CAST(:classes AS text[])) ORDER BY workspace_class, effective_from
    """
    histories: dict[str, list[PriceVersion]] = {}
    for row in fetch(connection, statement, classes=list(set(classes))):
        version = PriceVersion(effective_from=row.effective_from, credits_per_minute=row.credits_per_minute)
        histories.setdefault(row.workspace_class, []).append(version)
    return histories

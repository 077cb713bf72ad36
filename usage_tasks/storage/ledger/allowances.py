"""The free allowance, once a user: a claim is a row, unique by user, by e-mail and by account, and never changes."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.storage.rows import fetch

# A team's user is its creator while they own it, else its only owner (docs/adr/0013). An owner whom the directory does
# not know yet counts as one, but can't claim. Claims that run at once wait for one another at the unique indexes.
_CLAIM = """
    WITH opened AS (
        SELECT asked AS attribution_id, CAST(substr(asked, 6) AS uuid) AS team_id
        FROM unnest(CAST(:accounts AS text[])) AS asked
    ), owner AS (
        SELECT o.attribution_id, u.user_id, u.email_digest, u.user_id = t.creator_user_id AS is_creator,
               count(*) OVER (PARTITION BY o.team_id) AS owners
        FROM opened o
        JOIN directory_team t USING (team_id)
        JOIN directory_member m USING (team_id)
        LEFT JOIN directory_user u ON u.user_id = m.user_id
        WHERE m.role = 'owner' AND NOT COALESCE(u.deleted, false)
    )
    INSERT INTO allowance_claim (user_id, email_digest, attribution_id, claimed_at, actor)
    SELECT user_id, email_digest, attribution_id, :at, :actor
    FROM owner
    WHERE user_id IS NOT NULL AND (is_creator OR owners = 1)
        AND NOT EXISTS (
            SELECT 1 FROM directory_user same JOIN allowance_claim USING (user_id)
            WHERE same.email_digest = owner.email_digest
        )
    ORDER BY user_id, attribution_id
    ON CONFLICT DO NOTHING
    RETURNING attribution_id
"""


def claim(
    connection: Connection, teams: Sequence[AttributionId], *, at: datetime, actor: Actor
) -> Sequence[AttributionId]:
    """Claim the allowance of each team's user if it is not claimed yet. Return the teams that got one.

    This transaction has just opened the teams.
    """
    return [row.attribution_id for row in fetch(connection, _CLAIM, accounts=list(teams), at=at, actor=actor)]

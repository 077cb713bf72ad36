"""The directory: users, teams and members, each as its latest report gives it, in any order of reports.

Only a keyed digest of an e-mail is stored. A team's row is locked while its members change.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.access import Person, TeamRole
from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.directory import TeamReport, UserReport
from usage_tasks.storage.operations.audit import auditing
from usage_tasks.storage.rows import execute, fetch, fetch_one

_LOCK_USERS = """
    SELECT user_id FROM directory_user WHERE user_id = ANY(CAST(:ids AS uuid[])) ORDER BY user_id FOR UPDATE
"""

_USERS_CHANGED = auditing(
    """
        applied a LEFT JOIN former f USING (user_id)
        WHERE (a.administrator, a.deleted)
            IS DISTINCT FROM (COALESCE(f.administrator, false), COALESCE(f.deleted, false))
    """,
    action="user.set",
    at=":at",
    account="'user:' || a.user_id",
    details="""jsonb_build_object(
            'administrator', jsonb_build_array(f.administrator, a.administrator),
            'deleted', jsonb_build_array(f.deleted, a.deleted))""",
)

# The tie-break is that of UserReport.order. A new or lost administrator role, and a deletion, are audited.
_UPSERT_USERS = f"""
    WITH former AS (
        SELECT user_id, administrator, deleted FROM directory_user WHERE user_id = ANY(CAST(:ids AS uuid[]))
    ), applied AS (
        INSERT INTO directory_user AS held (user_id, email_digest, administrator, deleted, observed_at, actor)
        SELECT user_id, email_digest, administrator, deleted, observed_at, :actor
        FROM unnest(CAST(:ids AS uuid[]), CAST(:digests AS text[]), CAST(:administrators AS boolean[]),
                    CAST(:deleted AS boolean[]), CAST(:observed AS timestamptz[]))
            AS t(user_id, email_digest, administrator, deleted, observed_at)
        ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE
        SET email_digest = EXCLUDED.email_digest, administrator = EXCLUDED.administrator, deleted = EXCLUDED.deleted,
            observed_at = EXCLUDED.observed_at, recorded_at = clock_timestamp(), actor = EXCLUDED.actor
        WHERE (EXCLUDED.observed_at, EXCLUDED.deleted, NOT EXCLUDED.administrator,
               COALESCE(EXCLUDED.email_digest, '') COLLATE "C")
            > (held.observed_at, held.deleted, NOT held.administrator, COALESCE(held.email_digest, '') COLLATE "C")
        RETURNING user_id, administrator, deleted
    ), told AS (
        {_USERS_CHANGED}
    )
    SELECT count(*) AS applied FROM applied
"""

_UPSERT_TEAMS = """
    INSERT INTO directory_team AS held (team_id, creator_user_id, digest, observed_at, actor)
    SELECT team_id, creator_user_id, digest, observed_at, :actor
    FROM unnest(CAST(:ids AS uuid[]), CAST(:creators AS uuid[]), CAST(:digests AS text[]),
                CAST(:observed AS timestamptz[])) AS t(team_id, creator_user_id, digest, observed_at)
    ORDER BY team_id
    ON CONFLICT (team_id) DO UPDATE
    SET creator_user_id = EXCLUDED.creator_user_id, digest = EXCLUDED.digest, observed_at = EXCLUDED.observed_at,
        recorded_at = clock_timestamp(), actor = EXCLUDED.actor
    WHERE (EXCLUDED.observed_at, EXCLUDED.digest) > (held.observed_at, held.digest)
    RETURNING team_id
"""

_TEAMS_CHANGED = auditing(
    "(SELECT * FROM gone UNION ALL SELECT * FROM put) AS change GROUP BY team_id ORDER BY team_id",
    action="team.set_members",
    at=":at",
    account="'team:' || team_id",
    details="jsonb_build_object('members', jsonb_object_agg(CAST(user_id AS text), role))",
)

# One statement: who left goes, who came or changed is written, and each team that changed is audited with them.
_SET_MEMBERS = f"""
    WITH told AS (
        SELECT team_id, user_id, role
        FROM unnest(CAST(:teams AS uuid[]), CAST(:users AS uuid[]), CAST(:roles AS text[])) AS t(team_id, user_id, role)
    ), gone AS (
        DELETE FROM directory_member m
        WHERE m.team_id = ANY(CAST(:applied AS uuid[]))
            AND NOT EXISTS (SELECT 1 FROM told t WHERE t.team_id = m.team_id AND t.user_id = m.user_id)
        RETURNING m.team_id, m.user_id, CAST(NULL AS text) AS role
    ), put AS (
        INSERT INTO directory_member AS held (team_id, user_id, role) SELECT team_id, user_id, role FROM told
        ON CONFLICT (team_id, user_id) DO UPDATE SET role = EXCLUDED.role WHERE held.role <> EXCLUDED.role
        RETURNING team_id, user_id, role
    )
    {_TEAMS_CHANGED}
"""


def upsert_users(connection: Connection, reports: Sequence[UserReport], *, at: datetime, actor: Actor) -> int:
    """Take up reports of different users where they are later than what is held; return how many were."""
    ids = [str(each.user_id) for each in reports]
    execute(connection, _LOCK_USERS, ids=ids)
    row = fetch_one(
        connection,
        _UPSERT_USERS,
        ids=ids,
        digests=[each.email_digest for each in reports],
        administrators=[each.administrator for each in reports],
        deleted=[each.deleted for each in reports],
        observed=[each.observed_at for each in reports],
        at=at,
        actor=actor,
    )
    return int(row.applied)


def upsert_teams(connection: Connection, reports: Sequence[TeamReport], *, at: datetime, actor: Actor) -> int:
    """Take up reports of different teams where they are later than what is held; return how many were."""
    rows = fetch(
        connection,
        _UPSERT_TEAMS,
        ids=[str(each.team_id) for each in reports],
        creators=[None if each.creator_user_id is None else str(each.creator_user_id) for each in reports],
        digests=[each.digest for each in reports],
        observed=[each.observed_at for each in reports],
        actor=actor,
    )
    applied = {row.team_id for row in rows}
    memberships = [(each.team_id, member) for each in reports if each.team_id in applied for member in each.members]
    execute(
        connection,
        _SET_MEMBERS,
        applied=[str(team_id) for team_id in applied],
        teams=[str(team_id) for team_id, _ in memberships],
        users=[str(member.user_id) for _, member in memberships],
        roles=[member.role.value for _, member in memberships],
        at=at,
        actor=actor,
    )
    return len(applied)


def find_person(connection: Connection, user_id: UUID, *, team_id: UUID | None) -> Person:
    """Return the directory's facts about a user and their role in a team. For an unknown user every fact is empty."""
    statement = """
        SELECT COALESCE(u.administrator, false) AS administrator, COALESCE(u.deleted, false) AS deleted, m.role
        FROM (SELECT CAST(:user_id AS uuid) AS user_id) AS asked
        LEFT JOIN directory_user u USING (user_id)
        LEFT JOIN directory_member m ON m.team_id = CAST(:team_id AS uuid) AND m.user_id = asked.user_id
    """
    row = fetch_one(connection, statement, user_id=user_id, team_id=team_id)
    role = None if row.role is None else TeamRole(row.role)
    return Person(administrator=row.administrator, deleted=row.deleted, team_role=role)


def list_owners(connection: Connection, team_id: UUID) -> Sequence[UUID]:
    """List the owners of a team who are still there."""
    statement = """
        SELECT m.user_id FROM directory_member m LEFT JOIN directory_user u USING (user_id)
        WHERE m.team_id = :team AND m.role = 'owner' AND NOT COALESCE(u.deleted, false) ORDER BY m.user_id
    """
    return [row.user_id for row in fetch(connection, statement, team=team_id)]

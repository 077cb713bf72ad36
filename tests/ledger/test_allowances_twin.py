"""The allowances that the database claims are the domain's, for random directories and earlier claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.factories import START, SYSTEM, make_id, team
from tests.rows import insert_rows
from usage_tasks.domain.access import TeamRole
from usage_tasks.domain.allowances import AllowanceClaim, DirectoryUser, OpenedTeam, claim_allowances
from usage_tasks.domain.directory import EmailDigest
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger.allowances import claim

PEOPLE = [make_id(name) for name in ("ann", "bob", "cyd", "dan", "eve")]
DIGESTS = [EmailDigest(digit * 64) for digit in "012"]
TEAMS = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The directory, earlier claims, and teams that are opened together. Members who own nothing must not count."""

    users: Mapping[UUID, DirectoryUser]
    claims: Sequence[AllowanceClaim]
    teams: Sequence[OpenedTeam]
    members: Sequence[frozenset[UUID]]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    people = st.frozensets(st.sampled_from(PEOPLE), max_size=2)
    digests = st.sampled_from([None, *DIGESTS])
    users = {}
    for user_id in draw(st.frozensets(st.sampled_from(PEOPLE), min_size=2)):
        deleted = draw(st.sampled_from([False, False, False, True]))
        email_digest = None if deleted else draw(digests)
        users[user_id] = DirectoryUser(user_id=user_id, email_digest=email_digest, deleted=deleted)
    claimed = draw(st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(DIGESTS)), max_size=1))
    teams = [
        OpenedTeam(
            attribution_id=team(number),
            creator_user_id=draw(st.none() | st.sampled_from(PEOPLE)),
            owner_ids=draw(people),
        )
        for number in TEAMS
    ]
    return World(
        users=users,
        claims=[
            AllowanceClaim(user_id=user_id, email_digest=digest, attribution_id=team("old"))
            for user_id, digest in claimed
        ],
        teams=teams,
        members=[draw(people) for _ in TEAMS],
    )


def store(connection: Connection, world: World) -> None:
    seen = {"observed_at": START, "actor": SYSTEM}
    insert_rows(
        connection,
        "directory_user",
        [
            {
                "user_id": user.user_id,
                "email_digest": user.email_digest,
                "administrator": False,
                "deleted": user.deleted,
                **seen,
            }
            for user in world.users.values()
        ],
    )
    insert_rows(
        connection,
        "directory_team",
        [
            {"team_id": make_id(number), "creator_user_id": each.creator_user_id, "digest": "", **seen}
            for number, each in enumerate(world.teams)
        ],
    )
    insert_rows(connection, "directory_member", list(member_rows(world)))
    insert_rows(
        connection,
        "allowance_claim",
        [
            {
                "user_id": each.user_id,
                "email_digest": each.email_digest,
                "attribution_id": each.attribution_id,
                "claimed_at": START,
                "actor": SYSTEM,
            }
            for each in world.claims
        ],
    )


def member_rows(world: World) -> Sequence[dict[str, object]]:
    return [
        {"team_id": make_id(number), "user_id": user_id, "role": role.value}
        for number, (each, members) in enumerate(zip(world.teams, world.members, strict=True))
        for role, ids in ((TeamRole.OWNER, each.owner_ids), (TeamRole.MEMBER, members - each.owner_ids))
        for user_id in ids
    ]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds(), opened=st.frozensets(st.sampled_from(TEAMS), min_size=2))
def test_the_database_claims_the_allowances_that_the_domain_does(
    connection: Connection, world: World, opened: frozenset[int]
) -> None:
    teams = [world.teams[number] for number in opened]
    expected = claim_allowances(teams, world.users, world.claims)
    names = [each.attribution_id for each in teams]
    with rehearsal(connection):
        store(connection, world)
        assert sorted(claim(connection, names, at=START, actor=SYSTEM)) == sorted(
            each.attribution_id for each in expected
        )
        rows = connection.execute(text("SELECT user_id, email_digest, attribution_id FROM allowance_claim"))
        found = {AllowanceClaim(**row._mapping) for row in rows}
        assert found == {*world.claims, *expected}
        assert claim(connection, names, at=START, actor=SYSTEM) == []

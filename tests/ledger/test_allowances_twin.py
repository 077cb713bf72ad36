"""The allowances that the database claims are the domain's, for random directories and earlier claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
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

PEOPLE = [make_id(f"person {number}") for number in range(12)]
DIGESTS = [EmailDigest(digit * 64) for digit in "01234567"]
TEAMS = range(20)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The directory, earlier claims, and teams opened together. Members who own nothing must not count."""

    users: Mapping[UUID, DirectoryUser]
    claims: Sequence[AllowanceClaim]
    teams: Sequence[OpenedTeam]
    members: Sequence[frozenset[UUID]]


def random_world(rng: Random) -> World:
    users = {}
    for user_id in PEOPLE[2:]:  # the directory does not know all of them
        deleted = rng.choice([False, False, False, True])
        email_digest = None if deleted else rng.choice([None, *DIGESTS])
        users[user_id] = DirectoryUser(user_id=user_id, email_digest=email_digest, deleted=deleted)
    claimed = zip(rng.sample(PEOPLE, 3), rng.sample(DIGESTS, 3), strict=True)
    return World(
        users=users,
        claims=[
            AllowanceClaim(user_id=user_id, email_digest=digest, attribution_id=team(f"old {digest}"))
            for user_id, digest in list(claimed)[: rng.randrange(4)]
        ],
        teams=[
            OpenedTeam(
                attribution_id=team(number),
                creator_user_id=rng.choice([None, *PEOPLE]),
                owner_ids=frozenset(rng.sample(PEOPLE, rng.choice([0, 1, 1, 2, 3]))),
            )
            for number in TEAMS
        ],
        members=[frozenset(rng.sample(PEOPLE, rng.randrange(3))) for _ in TEAMS],
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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=True))
def test_the_database_claims_the_allowances_that_the_domain_does(connection: Connection, rng: Random) -> None:
    world = random_world(rng)
    opened = rng.sample(TEAMS, rng.randrange(1, len(TEAMS)))
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

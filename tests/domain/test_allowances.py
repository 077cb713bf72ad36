from uuid import UUID

import pytest

from tests.factories import make_id, team
from usage_tasks.domain.allowances import (
    AllowanceClaim,
    DirectoryUser,
    OpenedTeam,
    claim_allowances,
    find_claimant,
)
from usage_tasks.domain.directory import EmailDigest

ANN, BOB, CYD = (make_id(name) for name in ("ann", "bob", "cyd"))
SAME, OTHER = EmailDigest("5" * 64), EmailDigest("0" * 64)


def users(*known: DirectoryUser) -> dict[UUID, DirectoryUser]:
    return {user.user_id: user for user in known}


def known(user_id: UUID, email_digest: EmailDigest | None = None, *, deleted: bool = False) -> DirectoryUser:
    return DirectoryUser(user_id=user_id, email_digest=email_digest, deleted=deleted)


def opened(*owners: UUID, creator: UUID | None = None, name: str = "team") -> OpenedTeam:
    return OpenedTeam(attribution_id=team(name), creator_user_id=creator, owner_ids=frozenset(owners))


def claim(user_id: UUID, email_digest: EmailDigest | None = None, name: str = "team") -> AllowanceClaim:
    return AllowanceClaim(user_id=user_id, email_digest=email_digest, attribution_id=team(name))


DIRECTORY = users(known(ANN), known(BOB), known(CYD, deleted=True))
STRANGER = make_id("stranger")


@pytest.mark.parametrize(
    ("opening", "claimant"),
    [
        (opened(), None),
        (opened(creator=ANN), None),
        (opened(ANN), ANN),
        (opened(ANN, BOB), None),
        (opened(ANN, BOB, creator=BOB), BOB),
        (opened(ANN, creator=BOB), ANN),
        (opened(ANN, BOB, creator=STRANGER), None),
        (opened(CYD), None),
        (opened(CYD, creator=CYD), None),
        (opened(ANN, CYD), ANN),
        (opened(ANN, BOB, CYD, creator=CYD), None),
        (opened(STRANGER), None),
        (opened(STRANGER, creator=STRANGER), None),
        (opened(ANN, STRANGER), None),
        (opened(ANN, STRANGER, creator=ANN), ANN),
        (opened(ANN, STRANGER, creator=STRANGER), None),
    ],
)
def test_the_creator_claims_while_they_own_the_team_else_its_only_owner(
    opening: OpenedTeam, claimant: UUID | None
) -> None:
    found = find_claimant(opening, DIRECTORY)
    assert (found and found.user_id) == claimant


def test_a_user_claims_once_for_the_first_of_their_teams() -> None:
    names = sorted(["one", "two", "three"], key=team)
    teams = [opened(ANN, name=name) for name in reversed(names)]
    assert claim_allowances(teams, DIRECTORY, []) == [claim(ANN, name=names[0])]
    assert claim_allowances(teams, DIRECTORY, [claim(ANN, name="old")]) == []


def test_users_without_an_email_are_different_people() -> None:
    teams = [opened(ANN, name="one"), opened(BOB, name="two")]
    both = [claim(ANN, name="one"), claim(BOB, name="two")]
    assert claim_allowances(teams, DIRECTORY, []) == sorted(both, key=lambda each: each.user_id)
    assert claim_allowances(teams, DIRECTORY, [claim(make_id("old"), name="old")]) == sorted(
        both, key=lambda each: each.user_id
    )


def test_users_of_one_email_claim_once_the_lesser_user_first() -> None:
    directory = users(known(ANN, SAME), known(BOB, SAME))
    teams = [opened(ANN, name="one"), opened(BOB, name="two")]
    (added,) = claim_allowances(teams, directory, [])
    assert (added.user_id, added.email_digest) == (min(ANN, BOB), SAME)


def test_an_email_of_an_earlier_claim_and_one_that_its_user_has_now_are_used() -> None:
    earlier = claim(BOB, OTHER, "old")
    one = opened(ANN, name="one")
    assert claim_allowances([one], users(known(ANN, OTHER)), [earlier]) == []
    assert claim_allowances([one], users(known(ANN, SAME), known(BOB, SAME)), [earlier]) == []
    assert claim_allowances([one], users(known(ANN, SAME), known(BOB)), [earlier]) == [claim(ANN, SAME, "one")]
    assert claim_allowances([one], users(known(ANN, SAME), known(CYD, SAME)), [earlier]) == [claim(ANN, SAME, "one")]

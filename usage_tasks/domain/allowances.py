"""The free allowance of a team: it belongs to one user, and each user has it once.

Production claims allowances in one statement, storage/ledger/allowances.py. The functions here are its oracle,
which production never calls; tests/ledger/test_allowances_twin.py holds the two equal.
Source: docs/adr/0013-directory.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.directory import EmailDigest


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryUser:
    """A user whom the directory knows; only a digest of the e-mail is kept."""

    user_id: UUID
    email_digest: EmailDigest | None
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedTeam:
    """A team whose account is being opened, and the users that the directory names as its owners."""

    attribution_id: AttributionId
    creator_user_id: UUID | None
    owner_ids: frozenset[UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowanceClaim:
    """An allowance that is used up: by a user, under the e-mail of that time, for a team."""

    user_id: UUID
    email_digest: EmailDigest | None
    attribution_id: AttributionId


def find_claimant(team: OpenedTeam, users: Mapping[UUID, DirectoryUser]) -> DirectoryUser | None:
    """Return the user whose allowance a team uses: its creator while they own it, else its only owner.

    Deleted owners do not count. An owner whom the directory does not know counts, but cannot claim.
    """
    owners = [owner for owner in team.owner_ids if owner not in users or not users[owner].deleted]
    creator = team.creator_user_id
    if creator is not None and creator in owners and creator in users:
        return users[creator]
    return users.get(owners[0]) if len(owners) == 1 else None


def claim_allowances(
    teams: Iterable[OpenedTeam], users: Mapping[UUID, DirectoryUser], claims: Sequence[AllowanceClaim]
) -> list[AllowanceClaim]:
    """Return the claims of teams that are opened together, in the order of users, then of teams.

    None for a user with an earlier claim, and for a user whose e-mail was used for a claim or belongs to a user with a
    claim.
    """
    claimants = [(user, team) for team in teams if (user := find_claimant(team, users)) is not None]
    claimants.sort(key=lambda each: (each[0].user_id, each[1].attribution_id))
    used_ids = {claim.user_id for claim in claims}
    used_digests = {claim.email_digest for claim in claims}
    used_digests |= {users[user_id].email_digest for user_id in used_ids if user_id in users}
    added = []
    for user, team in claimants:
        if user.user_id not in used_ids and (user.email_digest is None or user.email_digest not in used_digests):
            used_ids.add(user.user_id)
            used_digests.add(user.email_digest)
            added.append(
                AllowanceClaim(user_id=user.user_id, email_digest=user.email_digest, attribution_id=team.attribution_id)
            )
    return added

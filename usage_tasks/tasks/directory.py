"""`directory.*`: the members of teams, reported by the platform's server. Ledger tasks: no network.

An e-mail is digested here, on arrival; only the digest goes on. No error about an e-mail repeats it.
"""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from usage_tasks.domain.access import Role, TeamRole
from usage_tasks.domain.accounts import parse_actor, parse_uuid
from usage_tasks.domain.directory import Member, TeamReport, UserReport, digest_email
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.directory import update_directory
from usage_tasks.services.directory.update_directory import Upserted
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Moment

USERS_MAX: Final = 5_000
TEAMS_MAX: Final = 1_000
MEMBERS_MAX: Final = 5_000
"""How many members a team may have: its report can't be taken apart."""

MEMBERS_A_MESSAGE_MAX: Final = 20_000
AHEAD_MAX: Final = timedelta(minutes=5)
"""How far a sender's clock may be ahead: until then a report bars every correction."""

EMAIL_LENGTH_MAX: Final = 320


def _uuid(value: str) -> str:
    try:
        return str(parse_uuid(value))
    except ValueError:
        # Not repeated, for it might be what belongs in another field.
        raise ValueError(
            "must be a UUID such as 11111111-2222-4333-8444-555555555555 (got text that is not shown)"
        ) from None


def _email(value: SecretStr) -> SecretStr:
    local, at, domain = value.get_secret_value().strip().rpartition("@")
    whole = local + domain
    if not at or not local or not domain or "@" in whole or " " in whole or not whole.isprintable():
        raise ValueError("must be an e-mail address such as name@example.com (got text that is not shown)")
    return value


Id = Annotated[
    str, StringConstraints(strict=True), AfterValidator(_uuid), WithJsonSchema({"type": "string", "format": "uuid"})
]
Email = Annotated[
    SecretStr,
    Field(max_length=EMAIL_LENGTH_MAX),
    AfterValidator(_email),
    WithJsonSchema({"type": "string", "format": "email"}),
]


class UserArguments(BaseModel):
    """All there is to know of a user; without an e-mail none is known. Of a deleted user none is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="UserReport")

    user_id: Id
    observed_at: Moment = Field(description="when the platform saw this; the latest report of a user holds")
    email: Email | None = None
    administrator: StrictBool = False
    deleted: StrictBool = False


class MemberArguments(BaseModel):
    """A user in a team."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Member")

    user_id: Id
    role: Literal["owner", "member"]


class TeamArguments(BaseModel):
    """All members of a team; a team that is no more has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="TeamReport")

    team_id: Id
    observed_at: Moment = Field(description="when the platform saw this; the latest report of a team holds")
    creator_user_id: Id | None = Field(default=None, description="whose free allowance it uses, while they own it")
    members: Annotated[list[MemberArguments], Field(max_length=MEMBERS_MAX)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({member.user_id for member in self.members}) != len(self.members):
            raise ValueError("must be a team with each user once in `members` (got a user twice)")
        return self


@task(name="directory.upsert_users", time_limit=timedelta(minutes=1), needs=Role.SERVICE)
def upsert_users(
    users: Annotated[list[UserArguments], Field(max_length=USERS_MAX)], actor: ActorText, at: Moment | None = None
) -> Upserted:
    """Take up users as the platform has them; safe to send again, and in any order."""
    rt = runtime()
    now = rt.instant(at)
    reports = [_user(rt, index, each, at=now) for index, each in enumerate(users)]
    with rt.transaction() as connection:
        return update_directory.upsert_users(connection, reports, at=now, actor=parse_actor(actor))


@task(name="directory.upsert_teams", time_limit=timedelta(minutes=1), needs=Role.SERVICE)
def upsert_teams(
    teams: Annotated[list[TeamArguments], Field(max_length=TEAMS_MAX)], actor: ActorText, at: Moment | None = None
) -> Upserted:
    """Store teams with all their members; a missing member has left. Safe to send again, and in any order."""
    rt = runtime()
    now = rt.instant(at)
    members = sum(len(each.members) for each in teams)
    if members > MEMBERS_A_MESSAGE_MAX:
        raise InvalidInputError(
            "teams", f"{members} members", f"at most {MEMBERS_A_MESSAGE_MAX} members in one message"
        )
    reports = [_team(index, each, at=now) for index, each in enumerate(teams)]
    with rt.transaction() as connection:
        return update_directory.upsert_teams(connection, reports, at=now, actor=parse_actor(actor))


def _user(rt: Runtime, index: int, row: UserArguments, *, at: datetime) -> UserReport:
    _check_observed(f"users.{index}.observed_at", row.observed_at, at=at)
    kept = None if row.deleted else row.email
    return UserReport(
        user_id=parse_uuid(row.user_id),
        email_digest=None if kept is None else digest_email(kept.get_secret_value(), rt.directory_key),
        administrator=row.administrator,
        deleted=row.deleted,
        observed_at=row.observed_at,
    )


def _team(index: int, row: TeamArguments, *, at: datetime) -> TeamReport:
    _check_observed(f"teams.{index}.observed_at", row.observed_at, at=at)
    return TeamReport(
        team_id=parse_uuid(row.team_id),
        creator_user_id=None if row.creator_user_id is None else parse_uuid(row.creator_user_id),
        members=[Member(user_id=parse_uuid(each.user_id), role=TeamRole(each.role)) for each in row.members],
        observed_at=row.observed_at,
    )


def _check_observed(field: str, observed_at: datetime, *, at: datetime) -> None:
    if observed_at > at + AHEAD_MAX:
        raise InvalidInputError(field, observed_at.isoformat(), f"at most 5 minutes after {at.isoformat()}")

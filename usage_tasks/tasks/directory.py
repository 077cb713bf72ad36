"""`directory.*`: the members of teams, reported by the platform's server. Ledger tasks: no network.

An e-mail is digested here, on arrival; only the digest goes on. No error about an e-mail repeats it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    WithJsonSchema,
)
from sqlalchemy import Connection

from usage_tasks.domain.access import Role, TeamRole
from usage_tasks.domain.accounts import (
    Account,
    Actor,
    ExternalId,
    ExternalName,
    NameKind,
    parse_actor,
    parse_uuid,
    resolve,
    subject_of,
)
from usage_tasks.domain.directory import Member, TeamReport, UserReport, digest_email
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.directory import naming, update_directory
from usage_tasks.services.directory.update_directory import Upserted
from usage_tasks.services.pricing.explain import find_subject
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, DisplayName, HiddenTeamId, HiddenUserId, Moment, SessionId

USERS_MAX: Final = 5_000
TEAMS_MAX: Final = 1_000
MEMBERS_MAX: Final = 5_000
"""How many members a team may have: its report can't be taken apart."""

MEMBERS_A_MESSAGE_MAX: Final = 20_000
AHEAD_MAX: Final = timedelta(minutes=5)
"""How far a sender's clock may be ahead: until then a report bars every correction."""

EMAIL_LENGTH_MAX: Final = 320


def _email(value: SecretStr) -> SecretStr:
    local, at, domain = value.get_secret_value().strip().rpartition("@")
    whole = local + domain
    if not at or not local or not domain or "@" in whole or " " in whole or not whole.isprintable():
        raise ValueError("must be an e-mail address such as name@example.com (got text that is not shown)")
    return value


Email = Annotated[
    SecretStr,
    Field(max_length=EMAIL_LENGTH_MAX),
    AfterValidator(_email),
    WithJsonSchema({"type": "string", "format": "email"}),
]


class UserArguments(BaseModel):
    """All there is to know of a user; without an e-mail none is known. Of a deleted user none is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="UserReport")

    user_id: HiddenUserId
    observed_at: Moment = Field(description="when the platform saw this; the latest report of a user holds")
    email: Email | None = None
    administrator: StrictBool = False
    deleted: StrictBool = False


class MemberArguments(BaseModel):
    """A user in a team."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Member")

    user_id: HiddenUserId
    role: Literal["owner", "member"]


class TeamArguments(BaseModel):
    """All members of a team; a team that is no more has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="TeamReport")

    team_id: HiddenTeamId
    observed_at: Moment = Field(description="when the platform saw this; the latest report of a team holds")
    creator_user_id: HiddenUserId | None = Field(
        default=None, description="whose free allowance it uses, while they own it"
    )
    members: Annotated[list[MemberArguments], Field(max_length=MEMBERS_MAX)]


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
    reports = [_team(rt, index, each, at=now) for index, each in enumerate(teams)]
    with rt.transaction() as connection:
        return update_directory.upsert_teams(connection, reports, at=now, actor=parse_actor(actor))


def _user(rt: Runtime, index: int, row: UserArguments, *, at: datetime) -> UserReport:
    _check_observed(f"users.{index}.observed_at", row.observed_at, at=at)
    kept = None if row.deleted else row.email
    return UserReport(
        user_id=parse_uuid(resolve(row.user_id, rt.name_namespace)),
        email_digest=None if kept is None else digest_email(kept.get_secret_value(), rt.directory_key),
        administrator=row.administrator,
        deleted=row.deleted,
        observed_at=row.observed_at,
        names=_names(rt, row.user_id),
    )


def _team(rt: Runtime, index: int, row: TeamArguments, *, at: datetime) -> TeamReport:
    _check_observed(f"teams.{index}.observed_at", row.observed_at, at=at)

    def read(text: str) -> UUID:
        return parse_uuid(resolve(text, rt.name_namespace))

    members = [Member(user_id=read(each.user_id), role=TeamRole(each.role)) for each in row.members]
    if len({each.user_id for each in members}) != len(members):  # once by UUID and once by name is twice too
        raise InvalidInputError(f"teams.{index}", "a user twice", "a team with each user once in `members`")
    return TeamReport(
        team_id=read(row.team_id),
        creator_user_id=None if row.creator_user_id is None else read(row.creator_user_id),
        members=members,
        observed_at=row.observed_at,
        names=_names(rt, row.team_id, row.creator_user_id, *(each.user_id for each in row.members)),
    )


def _names(rt: Runtime, *ids: str | None) -> Sequence[ExternalName]:
    return tuple(each.named(rt.name_namespace()) for each in ids if isinstance(each, ExternalId))


def _check_observed(field: str, observed_at: datetime, *, at: datetime) -> None:
    if observed_at > at + AHEAD_MAX:
        raise InvalidInputError(field, observed_at.isoformat(), f"at most 5 minutes after {at.isoformat()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedAnswer:
    """The id of a session or an account; its names stand beside it, as in every answer."""

    instance_id: str | None
    attribution_id: str | None


def _judge_naming(
    connection: Connection,
    actor: Actor,  # noqa: ARG001 - as every judge
    arguments: Mapping[str, Any],
) -> tuple[Account | None, Role]:
    """An owner of the account, or of the session's account; an administrator; a service."""
    account, _ = find_subject(connection, arguments.get("attribution_id"), None, arguments.get("instance_id"))
    return account, Role.OWNER


@task(name="directory.set_name", time_limit=timedelta(seconds=30), needs=_judge_naming)
def set_name(
    actor: ActorText,
    display_name: DisplayName | None,
    attribution_id: Attribution | None = None,
    instance_id: SessionId | None = None,
    at: Moment | None = None,
) -> NamedAnswer:
    """Give an account or a session a display name, or take it away with null. No id changes."""
    rt = runtime()
    who = parse_actor(actor)
    subject = _subject(attribution_id, instance_id)
    acted_at = rt.effective_instant(at, who)
    with rt.transaction() as connection:
        naming.set_display_name(connection, subject, display_name, at=acted_at, actor=who)
    return NamedAnswer(instance_id=instance_id, attribution_id=attribution_id)


@task(name="directory.get_name", time_limit=timedelta(seconds=30), needs=_judge_naming)
def get_name(
    actor: ActorText,  # noqa: ARG001 - judged before the task runs
    attribution_id: Attribution | None = None,
    instance_id: SessionId | None = None,
) -> NamedAnswer:
    """Return the id of an account or a session, and its names: it may be asked for by its UUID or its external id."""
    _subject(attribution_id, instance_id)  # raises unless it is asked about one thing
    return NamedAnswer(instance_id=instance_id, attribution_id=attribution_id)


def _subject(attribution_id: str | None, instance_id: str | None) -> str:
    if (attribution_id is None) == (instance_id is None):
        raise InvalidInputError("attribution_id", attribution_id, "given without instance_id, or left out with it")
    return attribution_id or subject_of(NameKind.SESSION, str(instance_id))

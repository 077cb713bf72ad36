"""Who may do what with an account: roles, how the directory's facts make them, and what an act asks for.

Source: docs/adr/0013; docs/semantics.md, Limits and access.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final
from uuid import UUID

from usage_tasks.domain.accounts import Account, AccountKind, Actor
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.errors import PermanentError


class TeamRole(StrEnum):
    """What a user is in a team."""

    OWNER = "owner"
    MEMBER = "member"


class Role(IntEnum):
    """What an actor is to an account; each may do whatever those before it may."""

    STRANGER = 0
    MEMBER = 1
    OWNER = 2
    ADMINISTRATOR = 3
    SERVICE = 4


_NEEDED: Final = {
    Role.MEMBER: "a member or an owner of it, or an administrator of the installation,",
    Role.OWNER: "an owner of it, or an administrator of the installation,",
    Role.ADMINISTRATOR: "an administrator of the installation",
    Role.SERVICE: "a service of the platform",
}


class AccessError(PermanentError):
    """An actor asked for what it may not do; the message names the actor, the account and who may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What the directory says of a user, and of what they are in one team; of an unknown user nothing is said."""

    administrator: bool = False
    deleted: bool = False
    team_role: TeamRole | None = None


def user_of(actor: Actor) -> UUID | None:
    """Answer the user who acts; None for a service."""
    kind, _, name = actor.partition(":")
    return UUID(name) if kind == "user" else None


def role_of(actor: Actor, account: Account | None, person: Person) -> Role:
    """Judge what an actor is to an account, or, without one, to the installation as a whole."""
    user_id = user_of(actor)
    if user_id is None:
        return Role.SERVICE
    if person.deleted:
        return Role.STRANGER
    if person.administrator:
        return Role.ADMINISTRATOR
    return Role.STRANGER if account is None else _role_in(account, user_id, person.team_role)


def _role_in(account: Account, user_id: UUID, team_role: TeamRole | None) -> Role:
    if account.kind is AccountKind.USER:
        return Role.OWNER if account.entity_id == user_id else Role.STRANGER
    match team_role:
        case TeamRole.OWNER:
            return Role.OWNER
        case TeamRole.MEMBER:
            return Role.MEMBER
        case None:
            return Role.STRANGER


def check_role(actor: Actor, account: Account | None, role: Role, *, needed: Role) -> None:
    """Raise AccessError where a role is less than what is needed."""
    if role < needed:
        where = "the installation" if account is None else account.attribution_id
        raise AccessError(f"access: {actor} may not do this with {where}: {_NEEDED[needed]} is needed")


def whose_usage(actor: Actor, role: Role) -> UUID | None:
    """Answer whose usage an actor who may read an account sees: a member their own; None is everybody's."""
    return None if role >= Role.OWNER else user_of(actor)


def needed_to_read_session(actor: Actor, user_id: UUID | None) -> Role:
    """Answer who may read what one session cost, or, where it is nobody's session, another entry of an account."""
    return Role.MEMBER if user_id is not None and user_of(actor) == user_id else Role.OWNER


def needed_to_set_cost_center(current: BillingStrategy, asked: BillingStrategy) -> Role:
    """Answer who may change a cost center: what is given, on strategy other, is not for those who use it to set."""
    return Role.OWNER if current is asked is BillingStrategy.STRIPE else Role.ADMINISTRATOR

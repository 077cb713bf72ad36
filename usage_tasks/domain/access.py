"""Access to accounts: the roles, how the directory's facts give them, and the role that each act needs.

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
    """The role of a user in a team."""

    OWNER = "owner"
    MEMBER = "member"


class Role(IntEnum):
    """The role of an actor towards an account. Each role includes the rights of the roles before it."""

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
    """The directory's facts about a user and their role in one team. For an unknown user every fact is empty."""

    administrator: bool = False
    deleted: bool = False
    team_role: TeamRole | None = None


def user_of(actor: Actor) -> UUID | None:
    """Return the user who acts, or None for a service."""
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
    """Raise AccessError if a role is less than what is needed."""
    if role < needed:
        where = "the installation" if account is None else account.attribution_id
        raise AccessError(f"access: {actor} may not do this with {where}: {_NEEDED[needed]} is needed")


def whose_usage(actor: Actor, role: Role) -> UUID | None:
    """Return whose usage the actor sees in an account that they may read: a member's own, or None for everybody's."""
    return None if role >= Role.OWNER else user_of(actor)


def needed_to_read_session(actor: Actor, user_id: UUID | None) -> Role:
    """Return the role needed to read the cost of one session, or of another entry if `user_id` is None."""
    return Role.MEMBER if user_id is not None and user_of(actor) == user_id else Role.OWNER


def needed_to_set_cost_center(current: BillingStrategy, asked: BillingStrategy) -> Role:
    """Return the role needed to change a cost center.

    Owners may change only accounts billed by Stripe. On strategy `other` the limit is an allowance, so an administrator
    sets it.
    """
    return Role.OWNER if current is asked is BillingStrategy.STRIPE else Role.ADMINISTRATOR

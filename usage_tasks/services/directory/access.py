"""Judge by the directory whether an actor may do what it asks for; services of the platform may without a look."""

from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.access import Person, Role, check_role, needed_to_set_cost_center, role_of, user_of, whose_usage
from usage_tasks.domain.accounts import Account, AccountKind, Actor
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.storage.directory import people
from usage_tasks.storage.ledger import cost_centers


def admit(connection: Connection, actor: Actor, account: Account | None, *, needed: Role) -> None:
    """Raise AccessError, which names the actor, the account and the roles that may, if an actor may not."""
    check_role(actor, account, find_role(connection, actor, account), needed=needed)


def admit_to_set_cost_center(connection: Connection, actor: Actor, account: Account, asked: BillingStrategy) -> None:
    """Raise AccessError if an actor may not change the cost center as it is now; it is locked from here on.

    An account that nobody opened is on strategy other.
    """
    if user_of(actor) is None:
        return
    current = cost_centers.find_current(connection, account.attribution_id)
    if current is not None:
        current = cost_centers.lock_current(connection, account.attribution_id)
    held = BillingStrategy.OTHER if current is None else current.billing_strategy
    admit(connection, actor, account, needed=needed_to_set_cost_center(held, asked))


def find_whose_usage(connection: Connection, actor: Actor, account: Account | None) -> UUID | None:
    """Return whose usage of an account, or of all, an actor may see: a member's own, or None for everybody's.

    Raises AccessError for a stranger.
    """
    role = find_role(connection, actor, account)
    check_role(actor, account, role, needed=Role.MEMBER)
    return whose_usage(actor, role)


def find_role(connection: Connection, actor: Actor, account: Account | None) -> Role:
    """Return the role of an actor towards an account, or towards the installation if `account` is None."""
    user_id = user_of(actor)
    if user_id is None:
        return role_of(actor, account, Person())
    team_id = account.entity_id if account is not None and account.kind is AccountKind.TEAM else None
    return role_of(actor, account, people.find_person(connection, user_id, team_id=team_id))

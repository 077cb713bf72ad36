import pickle

import pytest

from tests.factories import account_of, make_id, team, user
from usage_tasks.domain.access import (
    AccessError,
    Person,
    Role,
    TeamRole,
    check_role,
    needed_to_read_session,
    needed_to_set_cost_center,
    role_of,
    whose_usage,
)
from usage_tasks.domain.accounts import Account, Actor
from usage_tasks.domain.cost_centers import BillingStrategy

ANN, BOB = make_id("ann"), make_id("bob")
ACTOR = Actor(f"user:{ANN}")
SERVICE = Actor("service:server")
TEAM = account_of(team())
NOBODY = Person()
OWNER, MEMBER = Person(team_role=TeamRole.OWNER), Person(team_role=TeamRole.MEMBER)
ADMINISTRATOR = Person(administrator=True)


@pytest.mark.holds("access.own-account")
@pytest.mark.parametrize(
    ("actor", "account", "person", "role"),
    [
        (SERVICE, TEAM, NOBODY, Role.SERVICE),
        (SERVICE, None, NOBODY, Role.SERVICE),
        (ACTOR, TEAM, NOBODY, Role.STRANGER),
        (ACTOR, TEAM, MEMBER, Role.MEMBER),
        (ACTOR, TEAM, OWNER, Role.OWNER),
        (ACTOR, TEAM, ADMINISTRATOR, Role.ADMINISTRATOR),
        (ACTOR, None, ADMINISTRATOR, Role.ADMINISTRATOR),
        (ACTOR, None, OWNER, Role.STRANGER),
        (ACTOR, TEAM, Person(administrator=True, deleted=True), Role.STRANGER),
        (ACTOR, TEAM, Person(team_role=TeamRole.OWNER, deleted=True), Role.STRANGER),
        (ACTOR, account_of(user("ann")), NOBODY, Role.OWNER),
        (ACTOR, account_of(user("ann")), Person(deleted=True), Role.STRANGER),
        (ACTOR, account_of(user("bob")), NOBODY, Role.STRANGER),
        (ACTOR, account_of(user("bob")), ADMINISTRATOR, Role.ADMINISTRATOR),
        # A team and a user may have the same id: they are two accounts all the same.
        (ACTOR, account_of(team("ann")), NOBODY, Role.STRANGER),
    ],
)
def test_what_an_actor_is_to_an_account(actor: Actor, account: Account | None, person: Person, role: Role) -> None:
    assert role_of(actor, account, person) is role


def test_each_role_may_what_those_before_it_may_and_no_more() -> None:
    for role in Role:
        for needed in Role:
            if role >= needed:
                check_role(ACTOR, TEAM, role, needed=needed)
            else:
                with pytest.raises(AccessError):
                    check_role(ACTOR, TEAM, role, needed=needed)


@pytest.mark.holds("access.member")
def test_a_refusal_names_the_actor_the_account_and_who_may_and_survives_the_way_home() -> None:
    with pytest.raises(AccessError) as refused:
        check_role(ACTOR, TEAM, Role.MEMBER, needed=Role.OWNER)
    told = (
        f"access: {ACTOR} may not do this with {team()}: an owner of it, or an administrator of the installation, "
        "is needed"
    )
    assert str(refused.value) == told
    assert str(pickle.loads(pickle.dumps(refused.value))) == told  # noqa: S301 - our own bytes
    with pytest.raises(AccessError, match="may not do this with the installation: a service of the platform is needed"):
        check_role(ACTOR, None, Role.ADMINISTRATOR, needed=Role.SERVICE)


def test_an_owner_sees_everybodys_usage_a_member_their_own() -> None:
    assert whose_usage(ACTOR, Role.OWNER) is None
    assert whose_usage(ACTOR, Role.ADMINISTRATOR) is None
    assert whose_usage(SERVICE, Role.SERVICE) is None
    assert whose_usage(ACTOR, Role.MEMBER) == ANN


def test_a_member_may_read_their_own_session_only() -> None:
    assert needed_to_read_session(ACTOR, ANN) is Role.MEMBER
    assert needed_to_read_session(ACTOR, BOB) is Role.OWNER
    assert needed_to_read_session(ACTOR, None) is Role.OWNER
    assert needed_to_read_session(SERVICE, None) is Role.OWNER


@pytest.mark.holds("access.strategy")
def test_on_strategy_other_and_on_the_way_to_or_from_it_a_cost_center_is_an_administrators() -> None:
    other, stripe = BillingStrategy.OTHER, BillingStrategy.STRIPE
    assert needed_to_set_cost_center(stripe, stripe) is Role.OWNER
    for current, asked in [(other, other), (other, stripe), (stripe, other)]:
        assert needed_to_set_cost_center(current, asked) is Role.ADMINISTRATOR

"""Access to tasks: every task that takes an actor, and every role."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from tests.directory.test_update_directory import team_report, tell, user_report
from tests.factories import DAY, HOUR, START, call, make_id, record, session_report, stopped_report, team, user
from tests.ledger.test_cost_center import OTHER, STRIPE, put
from tests.snapshot import snapshot
from tests.tasks.test_task import as_if_delivered
from usage_tasks.celery import app
from usage_tasks.domain.access import AccessError, Role
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.settings import SettingsError
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS, task

NOW: Final = (START + DAY).isoformat()
AT: Final = {"attribution_id": team(), "at": NOW}
RANGE: Final = {"start": START.isoformat(), "end": (START + 2 * DAY).isoformat()}
NOTE: Final = {"amount": "1.00", "description": "for this test", "idempotency_key": "a key"}
PRICE: Final = {"workspace_class": "small", "credits_per_minute": "9", "effective_from": "2030-01-01T00:00:00Z"}
CUSTOMER: Final = {
    "email": "a@example.com",
    "name": "A",
    "currency": "eur",
    "billing_creator_user_id": str(make_id("o")),
}

# Each task that takes an actor: the least role that may call it for a team on strategy other, and valid arguments.
NEEDED: Final[dict[str, tuple[Role, dict[str, Any]]]] = {
    "usage.record_instances": (Role.ADMINISTRATOR, {"instances": [], "at": NOW}),
    "usage.report_running": (Role.ADMINISTRATOR, {"source": "eu", "instances": [], "at": NOW}),
    "usage.release_session": (Role.ADMINISTRATOR, {"instance_id": str(make_id("theirs")), "at": NOW}),
    "usage.get_balance": (Role.OWNER, AT),
    "usage.check_entitlement": (Role.OWNER, AT),
    "usage.set_limit_thresholds": (Role.OWNER, AT | {"thresholds": [50]}),
    "usage.list": (Role.MEMBER, AT | RANGE),
    "usage.report": (Role.MEMBER, AT | RANGE | {"group_by": ["user_id"]}),
    "usage.release_quarantined": (Role.ADMINISTRATOR, {"everything": True, "dry_run": False, "at": NOW}),
    "usage.drop_quarantined": (Role.ADMINISTRATOR, {"everything": True, "dry_run": False, "at": NOW}),
    "usage.get_cost_center": (Role.OWNER, AT),
    "usage.set_cost_center": (Role.ADMINISTRATOR, AT | {"billing_strategy": "other", "spending_limit": 7}),
    "usage.explain": (Role.OWNER, {"instance_id": str(make_id("theirs")), "at": NOW}),
    "usage.add_price_version": (Role.ADMINISTRATOR, PRICE | {"at": NOW}),
    "usage.add_credit_note": (Role.ADMINISTRATOR, AT | NOTE),
    "usage.grant_credits": (Role.ADMINISTRATOR, AT | NOTE),
    "usage.list_grants": (Role.OWNER, AT),
    "billing.create_stripe_customer": (Role.OWNER, AT | CUSTOMER),
    "billing.create_stripe_subscription": (Role.OWNER, {"attribution_id": team()}),
    "billing.cancel_subscription": (Role.OWNER, AT),
    "billing.finalize_invoice": (Role.ADMINISTRATOR, AT | {"stripe_invoice_id": "in_1"}),
    "billing.get_stripe_customer": (Role.OWNER, AT),
    "billing.create_hold_payment_intent": (Role.OWNER, AT),
    "billing.update_customer_subscriptions_tax_state": (Role.OWNER, AT),
    "billing.get_price_information": (Role.MEMBER, {"attribution_id": team()}),
    "billing.preview_invoice": (Role.OWNER, {"attribution_id": team()}),
    "billing.list_parked": (Role.ADMINISTRATOR, {}),
    "billing.release_parked": (Role.ADMINISTRATOR, AT),
    "billing.on_charge_dispute": (Role.ADMINISTRATOR, {"dispute_id": "du_1", "at": NOW}),
    "stripe.replay_events": (Role.ADMINISTRATOR, {"all_parked": True, "dry_run": False, "at": NOW}),
    "stripe.drop_events": (Role.ADMINISTRATOR, {"all_parked": True, "dry_run": False, "reason": "x", "at": NOW}),
    "directory.set_name": (Role.OWNER, AT | {"display_name": "The name"}),
    "directory.get_name": (Role.OWNER, {"attribution_id": team()}),
    "directory.upsert_users": (Role.SERVICE, {"users": [], "at": NOW}),
    "directory.upsert_teams": (Role.SERVICE, {"teams": [], "at": NOW}),
}
ACTORS: Final = {
    Role.STRANGER: f"user:{make_id('stranger')}",
    Role.MEMBER: f"user:{make_id('ann')}",
    Role.OWNER: f"user:{make_id('bob')}",
    Role.ADMINISTRATOR: f"user:{make_id('administrator')}",
    Role.SERVICE: "service:server",
}
MEMBER, OWNER, ADMINISTRATOR = (ACTORS[role] for role in (Role.MEMBER, Role.OWNER, Role.ADMINISTRATOR))
OF_NO_ACCOUNT: Final = {name for name, (_, arguments) in NEEDED.items() if "attribution_id" not in arguments}


@pytest.fixture
def lived_in(rt: Runtime) -> Runtime:
    """A team with an owner, a member, a session of each, and a running session of the member's."""
    with rt.transaction() as connection:
        tell(connection, team_report(ann="member", bob="owner"), user_report("administrator", administrator=True))
        tell(connection, team_report("other", cyd="owner"), user_report("gone", administrator=True, deleted=True))
        theirs = stopped_report(2 * HOUR, instance_id=make_id("theirs"), user_id=make_id("bob"))
        own = stopped_report(HOUR, instance_id=make_id("own"), user_id=make_id("ann"))
        running = session_report(instance_id=make_id("running"), user_id=make_id("ann"), started_at=START + DAY - HOUR)
        also = session_report(instance_id=make_id("also"), user_id=make_id("bob"), started_at=START + DAY - 2 * HOUR)
        foreign = stopped_report(HOUR, instance_id=make_id("foreign"), attribution_id=team("other"))
        record(connection, theirs, own, running, also, foreign)
        post_batch(connection, at=START + 5 * HOUR)
    app.loader.import_default_modules()
    rt.redis.flushdb()
    return rt


def ask(name: str, actor: str, **changed: Any) -> Any:
    return call(app.tasks[name], actor=actor, **(NEEDED[name][1] | changed))


def admitted(name: str, actor: str, **changed: Any) -> bool:
    try:
        ask(name, actor, **changed)
    except AccessError:
        return False
    except (InvalidInputError, SettingsError):
        return True  # the gate lies behind it: this installation has no Stripe
    return True


def test_every_task_that_takes_an_actor_is_tested_here(lived_in: Runtime) -> None:
    acting = {name for name, schema in ARGUMENT_SCHEMAS.items() if "actor" in schema["properties"]}
    assert acting == set(NEEDED)
    assert all("actor" in schema["required"] for name, schema in ARGUMENT_SCHEMAS.items() if name in acting)


@pytest.mark.holds("access.reading", "access.services-only", "access.own-account", "access.refusal")
@pytest.mark.parametrize("name", NEEDED)
def test_a_stranger_is_refused_once_and_leaves_no_trace(lived_in: Runtime, name: str) -> None:
    before, counted = snapshot(lived_in.database), refusals(name)
    strangers = [ACTORS[Role.STRANGER], f"user:{make_id('cyd')}", f"user:{make_id('gone')}"]
    for stranger in strangers:
        with as_if_delivered(app.tasks[name]), pytest.raises(AccessError) as refused:
            ask(name, stranger)
        where = "the installation" if name in OF_NO_ACCOUNT - {"usage.explain"} else team()
        assert str(refused.value).startswith(f"access: {stranger} may not do this with {where}: ")
    assert snapshot(lived_in.database) == before
    assert lived_in.redis.keys() == []  # neither tried again nor announced
    assert refusals(name) == counted + len(strangers)


def refusals(name: str) -> float:
    return REGISTRY.get_sample_value("usage_access_refused_total", {"task": name}) or 0


@pytest.mark.holds("access.reading", "access.member", "access.strategy", "access.services-only")
def test_each_task_is_open_to_those_who_may_and_to_nobody_else(lived_in: Runtime, subtests: pytest.Subtests) -> None:
    for name, (needed, _) in NEEDED.items():
        for role, actor in ACTORS.items():
            if name in OF_NO_ACCOUNT and name != "usage.explain" and role < Role.ADMINISTRATOR:
                continue  # towards the installation they are strangers, as above
            with subtests.test(f"{name} by {role.name}"):
                assert admitted(name, actor) is (role >= needed)


@pytest.mark.holds("access.own-account", "access.refusal")
def test_an_unknown_team_is_its_platforms_and_its_administrators_alone(lived_in: Runtime) -> None:
    nobodys = {"attribution_id": team("never told")}
    before = snapshot(lived_in.database)
    assert not any(admitted("usage.get_balance", ACTORS[role], **nobodys) for role in Role if role <= Role.OWNER)
    assert snapshot(lived_in.database) == before
    assert admitted("usage.get_balance", ADMINISTRATOR, **nobodys)
    assert admitted("usage.get_balance", "service:server", **nobodys)


@pytest.mark.holds("access.own-account")
def test_a_personal_account_is_its_users_own(lived_in: Runtime) -> None:
    own = {"attribution_id": user("ann")}
    for name in ("usage.get_balance", "usage.list", "usage.get_cost_center", "usage.check_entitlement"):
        assert admitted(name, MEMBER, **own)
        assert not admitted(name, OWNER, **own)
    assert not admitted("usage.add_credit_note", MEMBER, **own)
    assert not admitted("usage.set_cost_center", MEMBER, **own)


def test_who_is_no_longer_told_of_may_no_longer(lived_in: Runtime) -> None:
    assert admitted("usage.get_balance", OWNER)
    with lived_in.transaction() as connection:
        tell(connection, team_report(ann="owner", observed_at=START + HOUR))
    assert not admitted("usage.get_balance", OWNER)
    assert admitted("usage.get_balance", MEMBER)


@pytest.mark.holds("access.reading")
def test_a_member_lists_their_own_usage_and_nobody_elses(lived_in: Runtime) -> None:
    everything = ask("usage.list", OWNER)
    assert everything == ask("usage.list", "service:server") == ask("usage.list", ADMINISTRATOR)
    listed = {row["instance_id"] for row in everything["entries"]}
    assert listed == {str(make_id(name)) for name in ("running", "also", "theirs", "own")}
    assert everything["credit_cents_used"] == 600 + 1200 + 1200 + 600
    own = ask("usage.list", MEMBER)
    assert own["entries"] == [row for row in everything["entries"] if row["user_id"] == str(make_id("ann"))]
    assert (own["credit_cents_used"], own["total_entries"], own["total_pages"]) == (1200, 2, 1)
    second = ask("usage.list", MEMBER, page=2, per_page=1)
    assert [row["instance_id"] for row in second["entries"]] == [str(make_id("own"))]
    assert second["total_pages"] == 2


@pytest.mark.holds("usage.report")
def test_a_report_to_a_member_is_of_their_own_usage_and_that_of_all_accounts_is_not_for_owners(
    lived_in: Runtime,
) -> None:
    by_user = {row["user_id"]: row["credit_cents"] for row in ask("usage.report", OWNER)["rows"]}
    assert by_user == {str(make_id("ann")): 1200, str(make_id("bob")): 2400}
    own = ask("usage.report", MEMBER)
    assert {row["user_id"]: row["credit_cents"] for row in own["rows"]} == {str(make_id("ann")): 1200}
    assert own["totals"]["credit_cents"] == 1200
    of_all = {"attribution_id": None, "group_by": ["attribution_id"]}
    assert not any(admitted("usage.report", actor, **of_all) for actor in (MEMBER, OWNER))
    everybody = {row["attribution_id"] for row in ask("usage.report", ADMINISTRATOR, **of_all)["rows"]}
    assert everybody == {team(), team("other")}


@pytest.mark.holds("access.member")
def test_a_member_has_their_own_sessions_explained_and_no_other_entry(lived_in: Runtime) -> None:
    ask("usage.add_credit_note", "service:server", user_id=str(make_id("ann")))
    for of, may in [("own", True), ("running", True), ("theirs", False), ("foreign", False)]:
        assert admitted("usage.explain", MEMBER, instance_id=str(make_id(of))) is may
    by_key = {"instance_id": None, "attribution_id": team()}
    for key, may in [("session:{own}:1", True), ("session:{theirs}:1", False), ("note:a key", False), ("none", False)]:
        named = key.format(own=make_id("own"), theirs=make_id("theirs"))
        assert admitted("usage.explain", MEMBER, **by_key, entry_key=named) is may
        assert admitted("usage.explain", OWNER, **by_key, entry_key=named)


def test_an_explanation_of_two_things_at_once_opens_no_door(lived_in: Runtime) -> None:
    """A team of one's own beside a foreign session, and the other way round: a refused request gets no explanation."""
    foreign, own = str(make_id("foreign")), {"attribution_id": team()}
    with pytest.raises((AccessError, InvalidInputError)):
        ask("usage.explain", OWNER, instance_id=foreign, **own)
    with pytest.raises((AccessError, InvalidInputError)):
        ask("usage.explain", OWNER, instance_id=foreign, **own, entry_key=f"session:{make_id('own')}:1")
    with pytest.raises(AccessError):
        ask("usage.explain", OWNER, instance_id=foreign)
    with pytest.raises(AccessError):
        ask("usage.explain", OWNER, instance_id=None)


@pytest.mark.holds("access.reading", "access.strategy")
def test_on_stripe_an_owner_sets_the_limit_and_leaving_it_is_an_administrators(lived_in: Runtime) -> None:
    with lived_in.transaction() as connection:
        put(connection, STRIPE, at=START + DAY)
    assert ask("usage.set_cost_center", OWNER, billing_strategy="stripe")["spending_limit"] == 7
    assert not admitted("usage.set_cost_center", MEMBER, billing_strategy="stripe")
    with pytest.raises(AccessError, match=f"{OWNER} .* {team()}: an administrator of the installation is needed"):
        ask("usage.set_cost_center", OWNER, billing_strategy="other")
    assert ask("usage.set_cost_center", ADMINISTRATOR, billing_strategy="other")["billing_strategy"] == "other"
    before = snapshot(lived_in.database)
    assert not admitted("usage.set_cost_center", OWNER, billing_strategy="stripe")
    assert snapshot(lived_in.database) == before
    changed_by = "SELECT actor FROM audit WHERE action = 'cost_center.set' ORDER BY audit_id"
    with lived_in.transaction() as connection:
        assert connection.execute(text(changed_by)).scalars().all()[1:] == [OWNER, ADMINISTRATOR]


def test_a_cost_center_is_judged_as_it_is_when_it_changes(lived_in: Runtime) -> None:
    """The account leaves stripe during its owner's call: then the owner may not set it any more."""
    with lived_in.transaction() as connection:
        put(connection, STRIPE, at=START + HOUR)
    with ThreadPoolExecutor(1) as pool:
        with lived_in.transaction() as connection:
            put(connection, OTHER, at=START + 2 * HOUR)
            late = pool.submit(admitted, "usage.set_cost_center", OWNER, billing_strategy="stripe")
            with suppress(TimeoutError):
                assert late.result(timeout=0.5) is None, "it did not wait"
        assert late.result() is False


def test_a_task_that_takes_an_actor_or_an_account_cannot_be_declared_without_saying_what_it_needs() -> None:
    def acts(actor: str) -> None: ...

    def concerns(attribution_id: str) -> None: ...

    def neither(at: str) -> None: ...

    for name, function, needs in [("a", acts, None), ("b", concerns, None), ("c", neither, Role.OWNER)]:
        with pytest.raises(TypeError, match=f"usage.{name}: a task for an account takes an actor"):
            task(name=f"usage.{name}", time_limit=timedelta(seconds=1), needs=needs)(function)
        assert f"usage.{name}" not in ARGUMENT_SCHEMAS

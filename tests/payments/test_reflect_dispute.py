import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import requests

from tests.factories import HOUR, SYSTEM, make_id, team, user
from tests.stripe_world.bench import Bench, at_once
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.domain.access import TeamRole
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.directory import Member, TeamReport
from usage_tasks.domain.disputes import Dispute, DisputeId, DisputeStatus
from usage_tasks.services.inbox.handlers import HANDLERS
from usage_tasks.services.payments.reflect_dispute import DisputeOutcome, reflect_dispute
from usage_tasks.storage.directory import people as directory
from usage_tasks.storage.inbox.events import InboxEvent

ANNA, BERT, CLEO = (make_id(name) for name in ("anna", "bert", "cleo"))


def own(bench: Bench, account: AttributionId, owners: Sequence[UUID], members: Sequence[UUID] = ()) -> None:
    """Report the members of a team."""
    roles = {**dict.fromkeys(members, TeamRole.MEMBER), **dict.fromkeys(owners, TeamRole.OWNER)}
    people = tuple(Member(user_id=user_id, role=role) for user_id, role in roles.items())
    report = TeamReport(
        team_id=UUID(account.partition(":")[2]), creator_user_id=None, members=people, observed_at=bench.now()
    )
    with bench.transaction() as connection:
        directory.upsert_teams(connection, [report], at=BEGIN, actor=SYSTEM)


def charged(bench: Bench, account: AttributionId) -> Any:
    customer = bench.customer(account)
    asked = {"amount": 1000, "currency": "usd", "customer": customer, "confirm": True, "payment_method": "pm_card_visa"}
    return bench.world.v1.payment_intents.create(asked).latest_charge


def bank(bench: Bench, route: str, **body: Any) -> str:
    reply = requests.post(f"{bench.world.url}/_simulator/{route}", json=body, timeout=5)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


def disputed(bench: Bench, account: AttributionId, **body: Any) -> str:
    return bank(bench, "disputes", charge=charged(bench, account), **body)


def handle(bench: Bench, *prefixes: str, backwards: bool = False) -> list[str]:
    """Run the handlers on Stripe's new events of some kinds; return their outcomes."""
    events = [event for event in bench.world.new_events() if event.type.startswith(prefixes)]
    return [apply(bench, event) for event in (reversed(events) if backwards else events)]


def apply(bench: Bench, event: Any) -> str:
    subject = json.loads(str(event))["data"]["object"].get("id")
    arrived = InboxEvent(event_id=event.id, type=event.type, object_id=subject, created_at=BEGIN)
    write = HANDLERS[event.type](bench.context(at=BEGIN), arrived)
    with bench.transaction() as connection:
        return write(connection).outcome


def told(bench: Bench) -> list[tuple[str, str]]:
    """Return the announcements to the platform, in order: the last part of the task's name, and the user or account."""
    rows = bench.messages()
    return [
        (row.task.removeprefix("server."), row.payload.get("user_id", row.payload["attribution_id"])) for row in rows
    ]


def block(*users: UUID) -> list[tuple[str, str]]:
    return [("block_user", str(each)) for each in sorted(users, key=str)]


def unblock(*users: UUID) -> list[tuple[str, str]]:
    return [("unblock_user", str(each)) for each in sorted(users, key=str)]


def dispute_of(bench: Bench, dispute_id: str, status: DisputeStatus | None = None) -> Dispute:
    """A look at a dispute, as it was in that state."""
    found = bench.stripe.get_dispute(DisputeId(dispute_id))
    if status is None:
        return found
    return replace(found, status=status)


def reflect(bench: Bench, dispute: Dispute) -> DisputeOutcome:
    with bench.transaction() as connection:
        return reflect_dispute(connection, dispute, at=BEGIN, actor=SYSTEM)


@pytest.mark.holds("stripe.dispute", "stripe.dispute-repeated", "lesson.won-dispute")
@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_a_dispute_blocks_the_teams_owners_and_not_its_members_until_it_is_won(bench: Bench, backwards: object) -> None:
    account = team("disputed")
    own(bench, account, [ANNA, BERT], [CLEO])
    dispute = disputed(bench, account)
    handle(bench, "charge.dispute.", backwards=bool(backwards))
    assert told(bench) == block(ANNA, BERT)
    own(bench, account, [CLEO])  # the owner at that time
    bank(bench, "disputes/step", dispute=dispute, step="respond")
    bank(bench, "disputes/step", dispute=dispute, step="win")
    handle(bench, "charge.dispute.", backwards=bool(backwards))
    assert told(bench) == block(ANNA, BERT) + unblock(ANNA, BERT)
    actions = [row.action for row in bench.rows("SELECT action FROM audit WHERE action LIKE 'stripe_dispute.%'")]
    assert (actions[0], actions[-1]) == ("stripe_dispute.needs_response", "stripe_dispute.won")
    assert len(actions) == len(set(actions))


@pytest.mark.holds("stripe.dispute")
def test_a_dispute_against_an_individual_blocks_that_user_also_when_it_is_lost(bench: Bench) -> None:
    dispute = disputed(bench, user("anna"))
    bank(bench, "disputes/step", dispute=dispute, step="lose")
    assert handle(bench, "charge.dispute.")
    assert told(bench) == block(make_id("anna"))
    (row,) = bench.rows("SELECT * FROM stripe_dispute")
    assert (row.status, row.blocked_user_ids) == ("lost", [make_id("anna")])


@pytest.mark.holds("stripe.dispute", "lesson.won-dispute")
def test_an_inquiry_that_comes_to_nothing_lets_go(bench: Bench) -> None:
    dispute = disputed(bench, user("anna"), inquiry=True)
    handle(bench, "charge.dispute.")
    bank(bench, "disputes/step", dispute=dispute, step="drop")
    handle(bench, "charge.dispute.")
    assert told(bench) == block(make_id("anna")) + unblock(make_id("anna"))


def test_a_dispute_that_was_over_before_it_was_heard_of_blocks_nobody(bench: Bench) -> None:
    dispute = disputed(bench, user("anna"))
    bank(bench, "disputes/step", dispute=dispute, step="win")
    handle(bench, "charge.dispute.")
    assert told(bench) == []


@pytest.mark.holds("stripe.dispute-repeated")
def test_a_look_that_is_older_than_the_last_one_changes_nothing(bench: Bench) -> None:
    dispute = disputed(bench, user("anna"))
    old = dispute_of(bench, dispute)
    bank(bench, "disputes/step", dispute=dispute, step="win")
    reflect(bench, dispute_of(bench, dispute))
    assert reflect(bench, old).status == "won"
    assert told(bench) == []


@pytest.mark.holds("stripe.dispute")
def test_who_is_blocked_by_another_dispute_stays_blocked_whichever_account_it_is_against(bench: Bench) -> None:
    first, second = team("first"), team("second")
    own(bench, first, [ANNA, BERT])
    own(bench, second, [BERT, CLEO])
    one, other = disputed(bench, first), disputed(bench, second)
    handle(bench, "charge.dispute.")
    before = told(bench)
    bank(bench, "disputes/step", dispute=one, step="win")
    handle(bench, "charge.dispute.")
    assert told(bench)[len(before) :] == unblock(ANNA)
    bank(bench, "disputes/step", dispute=other, step="win")
    handle(bench, "charge.dispute.")
    assert told(bench)[len(before) + 1 :] == unblock(BERT, CLEO)


@pytest.mark.holds("stripe.dispute")
def test_a_team_whose_owners_nobody_told_is_announced_as_a_whole_and_its_owners_once_they_are_known(
    bench: Bench,
) -> None:
    account = team("unknown")
    dispute = disputed(bench, account)
    handle(bench, "charge.dispute.")
    assert told(bench) == [("block_account", account)]
    own(bench, account, [ANNA])
    bank(bench, "disputes/step", dispute=dispute, step="respond")
    handle(bench, "charge.dispute.")
    bank(bench, "disputes/step", dispute=dispute, step="win")
    handle(bench, "charge.dispute.")
    assert told(bench)[1:] == [*block(ANNA), *unblock(ANNA), ("unblock_account", account)]


def test_a_dispute_of_nobody_of_ours_is_left_alone(bench: Bench) -> None:
    stranger = bench.world.v1.customers.create().id
    asked = {"amount": 1000, "currency": "usd", "customer": stranger, "confirm": True}
    intent = bench.world.v1.payment_intents.create({**asked, "payment_method": "pm_card_createDispute"})
    (dispute,) = bench.world.v1.disputes.list({"payment_intent": intent.id}).data
    assert reflect(bench, dispute_of(bench, dispute.id)) == DisputeOutcome(status=None)
    assert bench.rows("SELECT * FROM stripe_dispute") == []


def test_disputes_decided_at_once_leave_nobody_free_whom_one_still_blocks(bench: Bench) -> None:
    won = disputed(bench, user("anna"))
    account = team("annas")
    own(bench, account, [make_id("anna")])
    lost = disputed(bench, account)
    reflect(bench, dispute_of(bench, won))
    looks = [dispute_of(bench, won, DisputeStatus.WON), dispute_of(bench, lost, DisputeStatus.LOST)]
    at_once(*[lambda look=look: reflect(bench, look) for look in looks * 2])
    heard = [task for task, _ in told(bench)]
    assert heard.count("block_user") == 2
    # A release is possible only before the second dispute was there: its block comes after it.
    assert heard[-1] == "block_user"


# Other events


@pytest.mark.holds("stripe.customer-updated")
def test_a_customer_who_moved_is_taxed_anew_and_another_change_asks_nothing(bench: Bench) -> None:
    account = team("moved")
    customer = bench.pay(account)
    bench.world.new_events()
    bench.world.v1.customers.update(customer, {"name": "Other"})
    assert handle(bench, "customer.updated") == ["the address did not change"]
    assert bench.world.subscriptions()[0].automatic_tax.enabled is False
    bench.world.v1.customers.update(customer, {"address": {"country": "DE"}})
    assert handle(bench, "customer.updated") == ["automatic tax on: 1 subscriptions changed"]
    assert bench.world.subscriptions()[0].automatic_tax.enabled is True
    bench.world.v1.customers.update(bench.world.v1.customers.create().id, {"address": {"country": "DE"}})
    assert handle(bench, "customer.updated") == ["not a customer of ours"]


def test_an_alert_of_stripes_is_announced_once(bench: Bench) -> None:
    account = team("alert")
    bench.pay(account)
    threshold = {"gte": 5, "meter": bench.world.meter_id, "recurrence": "one_time"}
    asked = {"alert_type": "usage_threshold", "title": "Much", "usage_threshold": threshold}
    alert = bench.world.v1.billing.alerts.create(asked).id
    bench.use(account, 7, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    (event,) = [event for event in bench.world.new_events() if event.type == "billing.alert.triggered"]
    assert [apply(bench, event), apply(bench, event)] == ["announced", "known"]
    (row,) = bench.messages()
    assert row.task == "server.usage_alert_triggered"
    assert (row.payload["attribution_id"], row.payload["stripe_alert_id"], row.payload["value"]) == (account, alert, 7)

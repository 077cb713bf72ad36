"""Each message to the platform from the code that causes it, against its schema; all seventeen of them."""

import re
from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from tests.factories import DAY, HOUR, make_id, team, used
from tests.metering.test_parked import pay, subscribe
from tests.metering.test_send_reports import Refusing, with_reports
from tests.outbox import list_messages
from tests.payments import test_dunning as dunning
from tests.payments import test_reflect_dispute as disputes
from tests.payments import test_reflect_reversals as reversals
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.domain.announcements import ANNOUNCEMENTS, AccountParked, BlockUser, DunningMessage
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvariantError, PermanentError
from usage_tasks.domain.limits import HardLimitGrace, LimitPolicy
from usage_tasks.services.ledger.post_usage import announce_limits
from usage_tasks.storage.announced import take_committed
from usage_tasks.storage.operations.outbox import announce, payload_of
from usage_tasks.storage.rows import fetch_one

ACCOUNT = team("one")
INSTANT = r"\d+(\.\d+)?"


def reach_every_level(bench: Bench) -> None:
    with bench.transaction() as connection:
        used(connection, ACCOUNT, 60_000, at=BEGIN)
        announce_limits(connection, at=BEGIN, policy=LimitPolicy(grace=HardLimitGrace(percent=20)))


def reach_a_limit_of_nothing(bench: Bench) -> None:
    with bench.transaction() as connection:
        used(connection, ACCOUNT, 10, at=BEGIN)
    bench.execute("UPDATE cost_center SET spending_limit = 0")
    with bench.transaction() as connection:
        announce_limits(connection, at=BEGIN)


def refuse_a_report(bench: Bench) -> None:
    customers = with_reports(bench, ACCOUNT)
    bench.send(Refusing(bench, customers[ACCOUNT], PermanentError("nobody")))


def subscribe_twice(bench: Bench) -> None:
    customer, _ = pay(bench)
    subscribe(bench, customer)
    bench.handle_all(BEGIN + 2 * HOUR)


def dispute_with_an_owner(bench: Bench) -> None:
    disputes.own(bench, ACCOUNT, [make_id("anna")])
    win(bench, disputes.disputed(bench, ACCOUNT))


def dispute_without_an_owner(bench: Bench) -> None:
    win(bench, disputes.disputed(bench, ACCOUNT))


def win(bench: Bench, dispute: str) -> None:
    disputes.handle(bench, "charge.dispute.")
    disputes.bank(bench, "disputes/step", dispute=dispute, step="respond")
    disputes.bank(bench, "disputes/step", dispute=dispute, step="win")
    disputes.handle(bench, "charge.dispute.")


def refund_in_vain(bench: Bench) -> None:
    reversals.test_a_refund_that_comes_back_is_told_once(bench, backwards=False)


def suspend_and_resume(bench: Bench) -> None:
    dunning.test_each_step_of_a_failed_payment_is_told_once(bench)


def settle_before_suspension(bench: Bench) -> None:
    dunning.failing(bench)
    dunning.sweep(bench, DAY, None)


def ask_for_an_action(bench: Bench) -> None:
    invoice_id = dunning.failing(bench)
    hear(bench, "invoice.payment_action_required", invoice_id)


def fail_to_finalize(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 5, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(add_months(BEGIN, 1) + GRACE / 2)
    draft = bench.world.invoices()[-1]
    assert draft.status == "draft"
    hear(bench, "invoice.finalization_failed", str(draft.id))


def hear(bench: Bench, kind: str, invoice_id: str) -> None:
    """Let an event arrive that the stand-in never sends by itself."""
    statement = "INSERT INTO stripe_event (event_id, type, object_id, created_at) VALUES ('evt_1', :kind, :id, :at)"
    bench.execute(statement, kind=kind, id=invoice_id, at=BEGIN)
    bench.apply(bench.now())


def trigger_an_alert(bench: Bench) -> None:
    disputes.test_an_alert_of_stripes_is_announced_once(bench)


CAUSES: dict[Callable[[Bench], None], set[str]] = {
    reach_every_level: {"usage_threshold_reached", "usage_limit_reached", "usage_hard_limit_reached"},
    reach_a_limit_of_nothing: {"usage_limit_reached", "usage_hard_limit_reached"},
    refuse_a_report: {"account_parked"},
    subscribe_twice: {"account_parked"},
    dispute_with_an_owner: {"block_user", "unblock_user"},
    dispute_without_an_owner: {"block_account", "unblock_account"},
    refund_in_vain: {"refund_failed"},
    suspend_and_resume: {"payment_failed", "payment_reminder", "suspend_account", "resume_account"},
    settle_before_suspension: {"payment_failed", "payment_settled"},
    ask_for_an_action: {"payment_failed", "payment_action_required"},
    fail_to_finalize: {"invoice_finalization_failed"},
    trigger_an_alert: {"usage_alert_triggered"},
}
# The key is the task's id on the queue, by which the platform knows what it has handled: it must not change.
KEYS = {
    "usage_threshold_reached": rf"usage_threshold_reached:team:[^:]+:{INSTANT}:\d+:\d+",
    "usage_limit_reached": rf"usage_limit_reached:team:[^:]+:{INSTANT}:\d+",
    "usage_hard_limit_reached": rf"usage_hard_limit_reached:team:[^:]+:{INSTANT}:\d+:\d+",
    "account_parked": rf"account_parked:team:[^:]+:(\d+:\d+|subscriptions:{INSTANT})",
    "block_user": r"server\.block_user:\w+:[0-9a-f-]{36}",
    "unblock_user": r"server\.unblock_user:\w+:[0-9a-f-]{36}",
    "block_account": r"server\.block_account:\w+",
    "unblock_account": r"server\.unblock_account:\w+",
    "refund_failed": r"server\.refund_failed:\w+",
    "payment_action_required": r"server\.payment_action_required:in_\w+",
    "invoice_finalization_failed": r"server\.invoice_finalization_failed:in_\w+",
    "usage_alert_triggered": r"server\.usage_alert_triggered:\w+:team:[^:]+",
} | {
    name: rf"{name}:team:[^:]+:{INSTANT}:\d+:{INSTANT}"
    for name in ("payment_failed", "payment_reminder", "suspend_account", "resume_account", "payment_settled")
}


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
def test_what_is_announced_is_as_its_schema_says(bench: Bench, cause: Callable[[Bench], None]) -> None:
    take_committed()
    cause(bench)
    assert take_committed()
    with bench.transaction() as connection:
        messages = list_messages(connection)
    assert {row.task.removeprefix("server.") for row in messages} == CAUSES[cause]
    for row in messages:
        name = row.task.removeprefix("server.")
        assert re.fullmatch(KEYS[name], row.key)


def test_no_message_is_left_out() -> None:
    caused = set[str]().union(*CAUSES.values())
    assert {f"server.{name}" for name in caused} == set(ANNOUNCEMENTS)
    assert caused == set(KEYS)


def test_a_message_is_stored_once_a_key(connection: Connection) -> None:
    message = AccountParked(attribution_id=ACCOUNT, reason="why", quantity=None, as_of=None, at=BEGIN)
    assert [announce(connection, message, once_per=key) for key in ("a", "a", "b")] == [True, False, True]
    stored = list_messages(connection)
    assert [row.key for row in stored] == ["server.account_parked:a", "server.account_parked:b"]
    assert stored[0].payload == {
        "attribution_id": ACCOUNT,
        "reason": "why",
        "quantity": None,
        "as_of": None,
        "at": "2026-01-31T10:00:00+00:00",
    }


def test_a_payload_takes_each_field_from_its_column_or_another_expression(connection: Connection) -> None:
    columns = (
        "'team:x' AS attribution_id, 'grace' AS state, 2 AS reminders, CAST('2026-01-31Z' AS timestamptz) AS since"
    )
    payload = payload_of(DunningMessage, {"failing_since": "since", "at": "since"})
    found = fetch_one(connection, f"SELECT {payload} AS payload FROM (SELECT {columns}) AS c").payload  # noqa: S608
    since = "2026-01-31T00:00:00+00:00"
    expected = {"attribution_id": "team:x", "state": "grace", "reminders": 2, "failing_since": since, "at": since}
    assert found == expected


def test_a_payload_has_no_field_that_its_message_has_not() -> None:
    with pytest.raises(InvariantError, match="BlockUser: has no field quantity"):
        payload_of(BlockUser, {"quantity": "1"})

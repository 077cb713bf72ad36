import json

import pytest
from typer.testing import CliRunner, Result

from tests.factories import HOUR, call
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.errors import MisconfiguredError
from usage_tasks.runtime import Runtime
from usage_tasks.tasks import directory

NOON = BEGIN + 2 * HOUR


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})


def test_parked_accounts_are_listed_and_released(bench: Bench, rt: Runtime, broker: str) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    TestClock(rt.redis).advance(NOON)
    assert run("parked", "list").exit_code == 0
    bench.world.v1.customers.delete(customer)
    bench.send()
    call(directory.set_name, attribution_id=account, display_name="Acme", actor="service:tests", at=NOON.isoformat())
    listed = run("parked", "list")
    shown = json.loads(listed.stdout)
    assert listed.exit_code == 1
    assert (shown["attribution_id"], shown["account_name"], shown["quantity"]) == (account, "Acme", 5)
    assert "No such customer" in shown["reason"]
    released = run("parked", "release", account).stdout
    done = {"sent_anew": 1, "dropped": 0, "parked_anew": None}
    assert json.loads(released[released.index("{\n") :]) == done | {"account_name": "Acme"}
    assert bench.reports() == [(NOON, 5, "pending")]


def test_drift_is_shown_repaired_and_the_exit_code(bench: Bench, rt: Runtime, broker: str) -> None:
    customers = bench.crowd(2, at=NOON)
    lost = min(customers)
    TestClock(rt.redis).advance(NOON + HOUR)
    bench.world.switch("meters", reject={customers[lost]: "meter_event_customer_not_found"})
    bench.send()
    bench.world.switch("meters", reject={})
    call(directory.set_name, attribution_id=lost, display_name="Acme", actor="service:tests", at=NOON.isoformat())
    shown = run("drift", "--fix")
    assert shown.exit_code == 1
    assert lost in shown.output
    assert "2 accounts compared, 1 astray, 1 repaired" in shown.output
    rows = [line.split("\t")[:2] for line in shown.output.splitlines() if "\t" in line]
    assert rows == [["account", "names"], [lost, "Acme"]]
    bench.send()
    assert run("drift").exit_code == 0


def test_the_set_up_is_checked_on_request(bench: Bench, rt: Runtime) -> None:
    assert run("check-stripe").exit_code == 0
    bench.world.v1.billing.meters.deactivate(bench.world.meter_id)
    assert isinstance(run("check-stripe").exception, MisconfiguredError)


def test_an_account_that_is_none_is_refused(rt: Runtime) -> None:
    refused = run("parked", "release", "nobody")
    assert refused.exit_code != 0
    assert "must be team:<id> or user:<id> (got 'nobody')" in str(refused.exception)


@pytest.mark.parametrize("command", [("parked", "list"), ("drift",)])
def test_an_installation_without_accounts_has_nothing_to_show(
    bench: Bench, rt: Runtime, command: tuple[str, ...]
) -> None:
    TestClock(rt.redis).advance(NOON)
    assert run(*command).exit_code == 0

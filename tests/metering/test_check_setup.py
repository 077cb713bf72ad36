import json
import sys
from decimal import Decimal
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.factories import HOUR
from tests.stripe_gateway.canned import answering, error
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import EVENT_NAME, KEY, StripeWorld, stripe_world
from tests.warm import start
from usage_tasks.cli import cli
from usage_tasks.domain.errors import MisconfiguredError, PermanentError
from usage_tasks.runtime import Runtime
from usage_tasks.services.metering.check_setup import ConfiguredPrice, check_stripe
from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.tasks import checks
from usage_tasks.tasks.billing import sync

NOON = BEGIN + 2 * HOUR


def make_price(world: StripeWorld, **fields: Any) -> str:
    recurring = {"interval": "month", "usage_type": "metered", "meter": world.meter_id} | fields.pop("recurring", {})
    price = {
        "currency": "usd",
        "unit_amount_decimal": Decimal("1.5"),
        "product_data": {"name": "Usage"},
        "recurring": {name: value for name, value in recurring.items() if value is not None},
    }
    return str(world.v1.prices.create(price | fields).id)


def check(world: StripeWorld, price_id: str, *, currency: str | None = "usd", event_name: str = EVENT_NAME) -> str:
    """Return the errors of a price and the meter, or an empty text."""
    price = ConfiguredPrice(key="a key", price_id=price_id, currency=currency)
    try:
        check_stripe(world.gateway(), [price], event_name=event_name)
    except MisconfiguredError as error:
        return str(error)
    return ""


def test_what_is_as_the_settings_say_is_no_error(world: StripeWorld) -> None:
    assert check(world, world.price_by_currency["usd"]) == ""
    assert check(world, world.price_by_currency["eur"], currency=None) == ""


@pytest.mark.holds("stripe.setup")
def test_each_price_and_meter_that_is_otherwise_is_named_with_what_it_must_be(world: StripeWorld) -> None:
    eur, seat = world.price_by_currency["eur"], world.flat_price()
    assert f"a key: price {eur}: currency is 'eur', must be 'usd'" in check(world, eur)
    told = check(world, seat)
    for problem in ("usage_type is 'licensed', must be 'metered'", f"meter is None, must be '{world.meter_id}'"):
        assert f"a key: price {seat}: {problem}" in told
    yearly = make_price(world, recurring={"interval": "year"})
    assert f"price {yearly}: interval is 'year', must be 'month'" in check(world, yearly)
    assert "price price_none: there is none in Stripe" in check(world, "price_none")
    assert "no meter takes events of the name 'other'" in check(world, eur, event_name="other")


@pytest.mark.holds("stripe.setup")
def test_a_meter_that_adds_up_or_is_switched_off_is_named(world: StripeWorld) -> None:
    summing = world.v1.billing.meters.create(
        {"display_name": "Sum", "event_name": "summed", "default_aggregation": {"formula": "sum"}}
    )
    price = make_price(world, recurring={"meter": summing.id})
    told = check(world, price, event_name="summed")
    assert told.endswith(f"meter {summing.id} of 'summed': its formula is 'sum', must be 'last'")
    world.v1.billing.meters.deactivate(world.meter_id)
    assert f"meter {world.meter_id} of '{EVENT_NAME}': is inactive, must be active" in check(
        world, world.price_by_currency["usd"]
    )


@pytest.mark.holds("stripe.setup")
def test_nothing_is_sent_to_a_meter_that_was_switched_off_and_nobody_is_parked(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    bench.crowd(3, at=NOON)
    bench.world.v1.billing.meters.deactivate(bench.world.meter_id)
    with pytest.raises(PermanentError, match="is inactive, must be active"):
        sync.send_meter_events()
    assert {state for _, _, state in bench.reports()} == {"pending"}
    assert bench.rows("SELECT max(attempts) FROM meter_report")[0] == (0,)


@pytest.mark.holds("stripe.refused-key")
def test_after_accounts_were_parked_the_set_up_is_looked_at_before_more_are(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    bench.crowd(1, at=NOON)
    checks.ensure_checked(rt)
    bench.world.v1.billing.meters.deactivate(bench.world.meter_id)
    with pytest.raises(PermanentError, match="1 parked"):
        sync.send_meter_events()
    bench.execute("UPDATE meter_report SET state = 'pending', parked_at = NULL")
    with pytest.raises(MisconfiguredError):
        sync.send_meter_events()


def test_that_stripe_is_away_keeps_no_worker_from_starting(rt: Runtime) -> None:
    with answering((500, error("down", kind="api_error"))) as down:
        rt.stripe = LiveGateway(secret_key=KEY, meter_event_name=EVENT_NAME, api_base=down.url)
        checks.check_at_start(rt)
        assert down.asked


@pytest.mark.holds("stripe.setup")
def test_a_stripe_worker_with_a_wrong_price_does_not_start_and_says_why(environment: dict[str, str]) -> None:
    with stripe_world(BEGIN) as world:
        seat = world.flat_price()
        variables = {"USAGE_STRIPE_API_BASE": world.url, "USAGE_STRIPE_PRICES": f'{{"teamUsagePriceId": "{seat}"}}'}
        command = [sys.executable, "-m", "celery", "-A", "usage_tasks", "worker", "-Q", "billing", "--pool", "solo"]
        ended = start.run(command, env=environment | variables)
    assert ended.returncode == 2
    assert f"stripePrices.teamUsagePriceId: price {seat}: usage_type is 'licensed', must be 'metered'" in ended.stderr


def test_the_doctor_looks_at_prices_and_meter(
    environment: dict[str, str], world: StripeWorld, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def told() -> list[tuple[str, str]]:
        lines = CliRunner().invoke(cli, ["doctor", "--json"]).stdout.splitlines()
        findings = [json.loads(line) for line in lines if line.startswith("{")]  # here its log goes there too
        return [(each["verdict"], each["found"]) for each in findings if "price" in each["found"]]

    environment["USAGE_STRIPE_PRICES"] = json.dumps({"teamUsagePriceId": make_price(world)})
    request.getfixturevalue("rt")
    assert told() == [("fine", "prices and meter are as the settings say")]
    monkeypatch.setenv("USAGE_STRIPE_PRICES", json.dumps({"teamUsagePriceId": world.flat_price()}))
    ((verdict, found),) = told()
    assert (verdict, "usage_type is 'licensed', must be 'metered'" in found) == ("wrong", True)

"""An invoice whose lines lack optional fields is billed right, or parked with the reason, never billed as 0."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.factories import HOUR, team
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.domain.cycles import add_months

ACCOUNT = team("lacking")
END = add_months(BEGIN, 1) + GRACE


def invoiced(bench: Bench, change: Callable[[dict[str, Any]], None]) -> tuple[int, list[str]]:
    """Bill a month of 31 credits by an invoice with a changed line; return the parked events with their reasons."""
    customer = bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 31, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(END)
    invoice_id = bench.world.invoices(customer)[-1].id
    with bench.world.server.simulator.world() as world:
        invoice = world.get("invoice", invoice_id)
        (line,) = invoice["lines"]["data"]
        change(line)
        world.store.put(invoice)
    bench.receive()
    applied = bench.apply(END)
    reasons = bench.rows("SELECT outcome FROM stripe_event WHERE state = 'parked'")
    return applied.parked, [row.outcome for row in reasons]


def without_the_exact_quantity(line: dict[str, Any]) -> None:
    assert line["quantity"] == 31
    line["quantity_decimal"] = None


def without_the_key_of_the_exact_quantity(line: dict[str, Any]) -> None:
    del line["quantity_decimal"]


@pytest.mark.holds("stripe.unreadable-line")
@pytest.mark.parametrize("change", [without_the_exact_quantity, without_the_key_of_the_exact_quantity])
def test_a_whole_quantity_is_billed_where_there_is_no_exact_one(bench: Bench, change: Any) -> None:
    assert invoiced(bench, change) == (0, [])
    assert bench.invoice_entries(ACCOUNT) == [-3100]
    assert bench.balance(ACCOUNT, END) == 0
    assert bench.verified(END).clean


def without_details(line: dict[str, Any]) -> None:
    del line["pricing"]["price_details"]


def without_pricing(line: dict[str, Any]) -> None:
    del line["pricing"]


def without_any_quantity(line: dict[str, Any]) -> None:
    line["quantity"] = line["quantity_decimal"] = None


@pytest.mark.holds("stripe.unreadable-line")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_details, "`pricing.price_details.price`: must name the price"),
        (without_pricing, "`pricing.price_details.price`: must name the price"),
        (without_any_quantity, "`quantity_decimal` or `quantity`: must be a number"),
    ],
)
def test_a_line_that_may_be_ours_and_cannot_be_read_is_set_aside_with_the_reason(
    bench: Bench, change: Any, named: str
) -> None:
    parked, reasons = invoiced(bench, change)
    assert parked == len(reasons) > 0
    assert all(named in reason and "line_item il_" in reason for reason in reasons)
    assert bench.invoice_entries(ACCOUNT) == []


def test_a_line_by_hand_beside_ours_changes_nothing(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 31, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(END)
    invoice_id = bench.world.invoices(customer)[-1].id
    with bench.world.server.simulator.world() as world:
        invoice = world.get("invoice", invoice_id)
        (ours,) = invoice["lines"]["data"]
        lacking = dict.fromkeys(("pricing", "parent", "quantity", "quantity_decimal"))
        invoice["lines"]["data"].append({**ours, **lacking, "id": "il_by_hand"})
        world.store.put(invoice)
    bench.receive()
    assert bench.apply(END).parked == 0
    assert bench.invoice_entries(ACCOUNT) == [-3100]

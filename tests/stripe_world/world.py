"""Stripe as a test sees it: the simulator over HTTP, its clock, and its present objects."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import requests
import stripe

from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.stripe_simulator import Settings, serve
from usage_tasks.stripe_simulator.http.server import Server
from usage_tasks.stripe_simulator.state.world import THIN_EVENT
from usage_tasks.stripe_simulator.time import collecting

KEY = "sk_test_simulator"
EVENT_NAME = "usage_credits"
GRACE = timedelta(hours=1)
"""How long the simulator keeps a draft, as Stripe does."""


@dataclass(slots=True, kw_only=True)
class StripeWorld:
    """A simulator on a clock that stands still, with our meter and our two prices."""

    server: Server
    v1: Any
    meter_id: str
    price_by_currency: dict[str, str]
    _seen: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def our_prices(self) -> frozenset[str]:
        return frozenset(self.price_by_currency.values())

    def gateway(self) -> LiveGateway:
        return LiveGateway(secret_key=KEY, meter_event_name=EVENT_NAME, api_base=self.url)

    def advance(self, to: datetime) -> None:
        """Advance the clock; everything due until then happens."""
        reply = requests.post(f"{self.url}/_simulator/clock", json={"advance_to": int(to.timestamp())}, timeout=30)
        assert reply.status_code == 200, reply.text

    def switch(self, route: str, **options: Any) -> None:
        """Change the state of an admin route below /_simulator/."""
        reply = requests.post(f"{self.url}/_simulator/{route}", json=options, timeout=5)
        assert reply.status_code == 200, reply.text

    def thin_events(self) -> list[str]:
        """The ids of the thin events, oldest first."""
        with self.server.simulator.world() as world:
            return [event["id"] for event in world.store.scan(THIN_EVENT)][::-1]

    def new_events(self) -> list[Any]:
        """The events since this was last asked, oldest first."""
        listed = self.v1.events.list({"limit": 20}).auto_paging_iter()  # the newest first
        fresh = list(itertools.takewhile(lambda event: event.id not in self._seen, listed))
        self._seen |= {event.id for event in fresh}
        return fresh[::-1]

    def decline(self, customer_id: str, *, declined: bool = True) -> None:
        """Let a customer's payments fail from now on, or succeed again."""
        self.v1.customers.update(customer_id, {"metadata": {"simulate_decline": str(declined).lower()}})

    def collect(self, invoice_id: str) -> None:
        """Let Stripe try the payment once more, also for an invoice that was given up."""
        with self.server.simulator.world() as world:
            collecting.collect(world, world.get("invoice", invoice_id), at=world.now())

    def replace(self, invoice_id: str, revision: str) -> None:
        """Mark an invoice as replaced by a revision."""
        with self.server.simulator.world() as world:
            world.store.put({**world.get("invoice", invoice_id), "latest_revision": revision})

    def customers(self) -> list[Any]:
        return list(self.v1.customers.list({"limit": 100}).auto_paging_iter())

    def subscriptions(self) -> list[Any]:
        return list(self.v1.subscriptions.list({"limit": 100, "status": "all"}).auto_paging_iter())

    def invoices(self, customer_id: str | None = None) -> list[Any]:
        """Invoices, oldest first."""
        asked = {"limit": 100} | ({} if customer_id is None else {"customer": customer_id})
        return list(reversed(list(self.v1.invoices.list(asked).auto_paging_iter())))

    def billed_credits(self, customer_id: str) -> list[Decimal]:
        """Return the credits that each finalized invoice bills at our prices, oldest first, without zero invoices."""
        quantities = [
            sum(
                (
                    Decimal(line.quantity_decimal)
                    for line in self.v1.invoices.line_items.list(invoice.id, {"limit": 100}).auto_paging_iter()
                    if line.pricing.price_details.price in self.our_prices
                ),
                start=Decimal(0),
            )
            for invoice in self.invoices(customer_id)
            if invoice.status_transitions.finalized_at is not None
        ]
        return [quantity for quantity in quantities if quantity]

    def meter_events(self, customer_id: str | None = None) -> list[tuple[int, int]]:
        """Return the events that the meter accepted, as (Unix time, value), in the order of arrival."""
        with self.server.simulator.world() as world:
            rows = world.store.rows("SELECT timestamp, value, customer FROM meter_event ORDER BY seq")
        return [(at, int(value)) for at, value, customer in rows if customer_id in {None, customer}]

    def flat_price(self) -> str:
        """Make a price that is not ours: a seat."""
        recurring = {"interval": "month"}
        price = {"currency": "usd", "unit_amount": 900, "product_data": {"name": "Seat"}, "recurring": recurring}
        return str(self.v1.prices.create(price).id)


@contextmanager
def stripe_world(at: datetime) -> Iterator[StripeWorld]:
    """Run a simulator whose clock stands at an instant."""
    stripe.enable_telemetry = False
    with serve(Settings(frozen_time=int(at.timestamp()))) as server:
        client = stripe.StripeClient(
            KEY, base_addresses={"api": server.url}, http_client=stripe.RequestsClient(timeout=10)
        )
        meter = client.v1.billing.meters.create(
            {"display_name": "Credits", "event_name": EVENT_NAME, "default_aggregation": {"formula": "last"}}
        )
        prices = {
            currency: client.v1.prices.create(
                {
                    "currency": currency,
                    "unit_amount_decimal": Decimal("1.5"),
                    "product_data": {"name": "Usage"},
                    "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
                }
            ).id
            for currency in ("eur", "usd")
        }
        yield StripeWorld(server=server, v1=client.v1, meter_id=meter.id, price_by_currency=prices)

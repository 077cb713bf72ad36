"""The world of an operation: objects, events and the clock, inside one transaction."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from usage_tasks.stripe_simulator.state.store import Store
from usage_tasks.stripe_simulator.state.switches import Switches
from usage_tasks.stripe_simulator.wire.errors import missing_object
from usage_tasks.stripe_simulator.wire.wire import API_VERSION, JsonObject

GLOBAL_CLOCK = ""
THIN_EVENT = "v2.core.event"
PREFIXES = {
    "customer": "cus",
    "product": "prod",
    "price": "price",
    "billing.meter": "mtr_test",
    "subscription": "sub",
    "subscription_item": "si",
    "invoice": "in",
    "line_item": "il",
    "invoice_payment": "inpay",
    "payment_intent": "pi",
    "payment_method": "pm",
    "charge": "ch",
    "dispute": "du",
    "refund": "re",
    "credit_note": "cn",
    "credit_note_line_item": "cnli",
    "balance_transaction": "txn",
    "customer_balance_transaction": "cbtxn",
    "billing.alert": "alrt",
    "event": "evt",
    THIN_EVENT: "evt",
    "test_helpers.test_clock": "clock",
}


def new_id(kind: str) -> str:
    return f"{PREFIXES[kind]}_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The state, and who asked for the change: a request, or nobody when time did it."""

    store: Store
    endpoints: frozenset[str] = frozenset()
    """The types of event that have an endpoint to go to."""
    switches: Switches = field(default_factory=Switches)
    request_id: str | None = None
    idempotency_key: str | None = None

    def get(self, kind: str, identifier: str, *, param: str = "id", status: int = 404) -> JsonObject:
        found = self.store.find(kind, identifier)
        if found is None:
            raise missing_object(kind, identifier, param=param, status=status)
        return found

    def named(self, kind: str, identifier: str, *, param: str, status: int = 400) -> JsonObject:
        """The live object that a parameter names: a deleted one is as good as unknown."""
        found = self.get(kind, identifier, param=param, status=status)
        if found.get("deleted"):
            raise missing_object(kind, identifier, param=param, status=status)
        return found

    def subscriptions_of(self, customer: str) -> Iterator[JsonObject]:
        """The customer's subscriptions that aren't over, newest first."""
        found = list(self.store.scan("subscription", customer=customer))
        return (subscription for subscription in found if subscription["ended_at"] is None)

    def now(self, clock: str | None = GLOBAL_CLOCK) -> int:
        """The Unix time on a clock: where it is frozen, or the real time."""
        row = self.store.row("SELECT frozen_time FROM clock WHERE id = :id", id=clock or GLOBAL_CLOCK)
        return int(time.time()) if row is None or row[0] is None else int(row[0])

    def set_clock(self, clock: str, at: int) -> None:
        """Move a frozen clock on; a real one stays real, and none moves back."""
        statement = "UPDATE clock SET frozen_time = max(frozen_time, :at) WHERE id = :id AND frozen_time IS NOT NULL"
        self.store.execute(statement, id=clock, at=at)

    def schedule(self, *, clock: str | None, at: int, job: str, subject: str) -> None:
        self.store.execute(
            "INSERT INTO due (clock, at, job, id) VALUES (:clock, :at, :job, :id)"
            " ON CONFLICT (job, id) DO UPDATE SET at = excluded.at",
            clock=clock or GLOBAL_CLOCK,
            at=at,
            job=job,
            id=subject,
        )

    def unschedule(self, *, job: str, subject: str) -> None:
        self.store.execute("DELETE FROM due WHERE job = :job AND id = :id", job=job, id=subject)

    def emit(self, kind: str, subject: JsonObject, *, at: int, before: JsonObject | None = None) -> None:
        """Record that something happened to an object, as it is now, and queue its delivery.

        With the switch for twins a fact may become two events that differ in nothing but their ids.
        """
        data: JsonObject = {"object": render(subject)}
        if before is not None:
            old = render(before)
            data["previous_attributes"] = {key: value for key, value in old.items() if data["object"].get(key) != value}
        event: JsonObject = {
            "object": "event",
            "api_version": API_VERSION,
            "created": at,
            "data": data,
            "livemode": False,
            "pending_webhooks": int("event" in self.endpoints),
            "request": {"id": self.request_id, "idempotency_key": self.idempotency_key},
            "type": kind,
        }
        for _ in range(2 if self.switches.has_twin() else 1):
            self._post({"id": new_id("event"), **event})

    def emit_thin(self, kind: str, *, meter: str | None, data: JsonObject, at: int) -> None:
        """Record a thin event, about a meter or about none, and queue its webhook."""
        event: JsonObject = {
            "id": new_id(THIN_EVENT),
            "object": THIN_EVENT,
            "changes": None,
            "context": None,
            "created": iso(at),
            "data": data,
            "livemode": False,
            "reason": None,
            "snapshot_event": None,
            "type": kind,
        }
        if meter is not None:
            event["related_object"] = {"id": meter, "type": "billing.meter", "url": f"/v1/billing/meters/{meter}"}
        self._post(event)

    def _post(self, event: JsonObject) -> None:
        self.store.put(event)
        if event["object"] in self.endpoints:
            self.store.execute("INSERT INTO delivery (event) VALUES (:event)", event=event["id"])


def iso(at: int) -> str:
    """A Unix time as the second version of the API writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


LINES_SHOWN = 10


def render(subject: JsonObject) -> JsonObject:
    """An object as replies and events show it: without what must be expanded, and with the first lines only."""
    if subject["object"] == "price":
        return {key: value for key, value in subject.items() if key != "tiers"}
    if subject["object"] != "invoice":
        return subject
    shown = {key: value for key, value in subject.items() if key != "payments"}
    lines = subject["lines"]
    shown["lines"] = {**lines, "data": lines["data"][:LINES_SHOWN], "has_more": len(lines["data"]) > LINES_SHOWN}
    return shown

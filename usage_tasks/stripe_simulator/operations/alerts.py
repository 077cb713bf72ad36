"""Alerts: a threshold of a meter, reported once for each customer who reaches it."""

from decimal import Decimal

from usage_tasks.stripe_simulator.operations.operation import Call, Operation
from usage_tasks.stripe_simulator.shapes.replies import page
from usage_tasks.stripe_simulator.state.world import World, new_id
from usage_tasks.stripe_simulator.time.metering import aggregate
from usage_tasks.stripe_simulator.wire.params import EXPAND, PAGE, Spec, integer, record, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_NEW: Spec = {
    **EXPAND,
    "alert_type": text("usage_threshold", required=True),
    "title": text(required=True, limit=256),
    "usage_threshold": record(
        {
            "gte": integer(required=True),
            "meter": text(required=True),
            "recurrence": text("one_time", required=True),
        },
        required=True,
    ),
}


def tell(world: World, *, meter: str, customer: str, timestamp: int, at: int) -> None:
    """Emit the event of each alert that a customer's usage has reached by now, once only."""
    for alert in list(world.store.scan("billing.alert")):
        threshold = alert["usage_threshold"]
        if threshold["meter"] != meter:
            continue
        used = aggregate(world.store, world.get("billing.meter", meter), customer=customer, start=0, end=timestamp + 1)
        if used < Decimal(threshold["gte"]):
            continue
        sql = "INSERT INTO metadata (type, key, value, id) VALUES ('billing.alert', 'told', :customer, :alert)"
        if world.store.execute(f"{sql} ON CONFLICT DO NOTHING", customer=customer, alert=alert["id"]) == 0:
            continue
        alerted = {"object": "billing.alert_triggered", "alert": alert, "created": at, "customer": customer}
        world.emit("billing.alert.triggered", {**alerted, "livemode": False, "value": int(used)}, at=at)


def _create(call: Call) -> JsonObject:
    world, params = call.world, call.params
    threshold = {"filters": [], **params["usage_threshold"]}
    world.named("billing.meter", threshold["meter"], param="usage_threshold[meter]")
    alert = {"object": "billing.alert", "alert_type": params["alert_type"], "title": params["title"]}
    made = {"id": new_id("billing.alert"), **alert, "livemode": False, "status": "active", "usage_threshold": threshold}
    world.store.put(made)
    return made


def _list(call: Call) -> JsonObject:
    return page(call.world, "billing.alert", call.params, url=call.path, keep=lambda _: True)


OPERATIONS = (
    Operation(method="POST", path="/v1/billing/alerts", spec=_NEW, handle=_create),
    Operation(method="GET", path="/v1/billing/alerts", spec=PAGE, handle=_list),
)

"""The table of operations, and the look-up of a request in it."""

from usage_tasks.stripe_simulator.operations import (
    alerts,
    catalog,
    credit_notes,
    customers,
    history,
    invoices,
    meter_events,
    meters,
    payment_intents,
    payment_methods,
    refunds,
    subscriptions,
)
from usage_tasks.stripe_simulator.operations.operation import Operation
from usage_tasks.stripe_simulator.wire.errors import not_simulated

OPERATIONS = (
    *customers.OPERATIONS,
    *catalog.OPERATIONS,
    *meters.OPERATIONS,
    *meter_events.OPERATIONS,
    *subscriptions.OPERATIONS,
    *invoices.OPERATIONS,
    *payment_methods.OPERATIONS,
    *payment_intents.OPERATIONS,
    *refunds.OPERATIONS,
    *credit_notes.OPERATIONS,
    *alerts.OPERATIONS,
    *history.OPERATIONS,
)
_BY_PATH = {(operation.method, operation.path): operation for operation in OPERATIONS}
_FIRST_ID = 3


def find(method: str, path: str) -> tuple[Operation, str]:
    """The operation of a path and the id in it; a literal path goes before one with an id."""
    exact = _BY_PATH.get((method, path))
    if exact is not None:
        return exact, ""
    parts = path.split("/")
    for place in range(_FIRST_ID, len(parts)):
        operation = _BY_PATH.get((method, "/".join([*parts[:place], "{id}", *parts[place + 1 :]])))
        if operation is not None and parts[place]:
            return operation, parts[place]
    raise not_simulated(method, path)

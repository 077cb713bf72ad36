"""The value of a meter for a customer between two times."""

from decimal import Decimal, localcontext

from usage_tasks.stripe_simulator.state.store import Store
from usage_tasks.stripe_simulator.wire.wire import EXACT, JsonObject

_LATEST = """
SELECT value FROM meter_event
WHERE meter = :meter AND customer = :customer AND timestamp >= :start AND timestamp < :end
ORDER BY timestamp DESC, seq DESC LIMIT 1"""
_ALL = """
SELECT value FROM meter_event
WHERE meter = :meter AND customer = :customer AND timestamp >= :start AND timestamp < :end"""


def aggregate(store: Store, meter: JsonObject, *, customer: str, start: int, end: int) -> Decimal:
    """The meter's value for events dated within [start, end); 0 if there are none.

    Of two events with the same timestamp, `last` takes the later arrival.
    """
    formula = meter["default_aggregation"]["formula"]
    statement = _LATEST if formula == "last" else _ALL
    found = store.rows(statement, meter=meter["id"], customer=customer, start=start, end=end)
    if formula == "count":
        return Decimal(len(found))
    with localcontext(EXACT):
        return sum((Decimal(value) for (value,) in found), start=Decimal(0))


def windows(store: Store, meter: JsonObject, *, customer: str, start: int, end: int, size: int) -> list[int]:
    """The starts of the windows of `size` seconds that have events, newest first."""
    sql = "SELECT DISTINCT timestamp / :size FROM meter_event WHERE meter = :meter AND customer = :customer"
    sql += " AND timestamp >= :start AND timestamp < :end ORDER BY 1 DESC"
    found = store.rows(sql, meter=meter["id"], customer=customer, start=start, end=end, size=size)
    return [number * size for (number,) in found]

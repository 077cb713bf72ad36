"""Late errors of a meter: errors of accepted events, collected and reported by thin events.

Source: https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api#handle-meter-event-errors
"""

from itertools import groupby

from usage_tasks.stripe_simulator.state.world import GLOBAL_CLOCK, World, iso
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import JsonObject

REPORT = "meter_errors"
SAMPLES_MAX = 10
_MINUTE = 60


class MeterEventError(ApiError):
    """An event that can't be counted: `reason` is the code by which a report names it, `later` that one must."""

    def __init__(
        self, message: str, *, reason: str, param: str, meter: str = "", code: str | None = None, later: bool = False
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.reason, self.meter, self.later = reason, meter, later


def collect(world: World, error: MeterEventError, *, request: str) -> None:
    """Remember an error, and report it: at once, or together with others when their time has come."""
    at, wait = world.now(), world.switches.metering.report_after_seconds
    sql = "INSERT INTO meter_error (meter, code, message, request, at) VALUES (:meter, :code, :message, :request, :at)"
    world.store.execute(sql, meter=error.meter, code=error.reason, message=str(error), request=request, at=at)
    if wait == 0:
        report(world, error.meter, at=at)
    elif world.store.row("SELECT 1 FROM due WHERE job = :job AND id = :id", job=REPORT, id=error.meter) is None:
        world.schedule(clock=GLOBAL_CLOCK, at=at + wait, job=REPORT, subject=error.meter)


def report(world: World, meter: str, *, at: int) -> None:
    """Report all collected errors of a meter, or, if `meter` is empty, the errors of events without a meter."""
    sql = "SELECT code, message, request, at FROM meter_error WHERE meter = :meter ORDER BY code, seq"
    found = world.store.rows(sql, meter=meter)
    if not found:
        return
    world.store.execute("DELETE FROM meter_error WHERE meter = :meter", meter=meter)
    types = [_error_type(code, list(rows)) for code, rows in groupby(found, key=lambda row: str(row[0]))]
    times = [row[3] for row in found]
    data: JsonObject = {
        "developer_message_summary": f"There is {len(found)} invalid event"
        if len(found) == 1
        else f"There are {len(found)} invalid events",
        "reason": {"error_count": len(found), "error_types": types},
        "validation_end": iso(max(times) // _MINUTE * _MINUTE + _MINUTE),
        "validation_start": iso(min(times) // _MINUTE * _MINUTE),
    }
    kind = "v1.billing.meter.error_report_triggered" if meter else "v1.billing.meter.no_meter_found"
    world.emit_thin(kind, meter=meter or None, data=data, at=at)


def _error_type(code: str, rows: list[tuple[str, str, str, int]]) -> JsonObject:
    samples = [{"error_message": row[1], "request": {"identifier": row[2]}} for row in rows[:SAMPLES_MAX]]
    return {"code": code, "error_count": len(rows), "sample_errors": samples}

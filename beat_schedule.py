"""When beat ticks: data, from the configuration file. An empty schedule switches its job off.

Beat is a dumb ticker: two of them do no harm, for a tick names a due time and the database runs each due time once.
A tick has no expiry, which would be a time of beat's clock and be compared with a worker's. While one waits in its
queue, beat sends no other (docs/adr/0027).
"""

from datetime import timedelta
from typing import Any

from usage_tasks.settings import Settings
from usage_tasks.telemetry.headers import TICK

_SWEEP = timedelta(minutes=1)
# A beat counts from its own start: were a daily job ticked once a day, frequent deployments would starve it. Ticks
# between due times cost a look at job_run; a due time that was missed is found by the next one.
_TICK_LONGEST = timedelta(minutes=1)


def make_beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return Celery's beat_schedule for an installation."""
    # The work of a lost message is in a table; a sweep finds it there.
    sweeps = (
        "billing.send_meter_events",
        "billing.release_holds",
        "billing.settle_doubts",
        "stripe.apply_events",
        "maintenance.dispatch_outbox",
    )
    ticks = {
        name: _tick(name, min(period, _TICK_LONGEST), kwargs={"scheduled": True})
        for name, period in settings.job_schedules.items()
        if period
    }
    return ticks | {name: _tick(name, _SWEEP, kwargs={}) for name in sweeps}


def _tick(name: str, period: timedelta, *, kwargs: dict[str, Any]) -> dict[str, Any]:
    options = {"headers": {TICK: True}, "ignore_result": True}
    return {"task": name, "schedule": period, "kwargs": kwargs, "options": options}

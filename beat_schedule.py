"""When beat ticks: data, from the configuration file. An empty schedule switches its job off.

Beat is a dumb ticker: two of them do no harm, for a tick names a due time and the database runs each due time once.
A tick that finds no worker expires instead of piling up.
"""

from datetime import timedelta
from typing import Any

from usage_tasks.settings import Settings

_EXPIRES_SHARE = 0.9
_SWEEP = timedelta(minutes=1)


def make_beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Answer Celery's beat_schedule for an installation."""
    jobs = {
        "usage.reconcile": settings.controller_schedule,
        "usage.reset": settings.reset_usage_schedule,
        "billing.sync": settings.billing_sync_schedule,
        "billing.reconcile_invoices": settings.invoice_reconcile_schedule,
        "billing.advance_dunning": timedelta(hours=1),
        "stripe.backfill_events": settings.stripe_backfill_schedule,
        # Daily; ticked hourly, so that a beat that is restarted every day does not starve it.
        "billing.drift_report": settings.billing_sync_schedule and timedelta(hours=1),
    }
    # What a lost message would have done is in a table; a sweep gets to it all the same.
    sweeps = (
        "billing.send_meter_events",
        "billing.release_holds",
        "billing.settle_doubts",
        "stripe.apply_events",
        "maintenance.dispatch_outbox",
    )
    ticks = {name: _tick(name, period, kwargs={"scheduled": True}) for name, period in jobs.items() if period}
    return ticks | {name: _tick(name, _SWEEP, kwargs={}) for name in sweeps}


def _tick(name: str, period: timedelta, *, kwargs: dict[str, Any]) -> dict[str, Any]:
    options = {"expires": period.total_seconds() * _EXPIRES_SHARE, "ignore_result": True}
    return {"task": name, "schedule": period, "kwargs": kwargs, "options": options}

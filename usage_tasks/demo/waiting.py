"""Wait until what was set in motion has come to rest."""

import time
from typing import Final

import psycopg

from usage_tasks.celery import app

_POLL_SECONDS: Final = 0.005
_SWEEP_SECONDS: Final = 5.0

_OPEN = """
    SELECT (SELECT count(*) FROM meter_report WHERE state = 'pending') AS reports,
           (SELECT count(*) FROM stripe_event WHERE state = 'pending') AS events,
           (SELECT count(*) FROM stripe_event) AS known
"""


def await_settled(database_url: str, *, events_at_least: int = 0, seconds_max: float = 120) -> None:
    """Wait until at least so many events are in the inbox, none is unapplied and no meter report is unsent.

    A message that was lost is made up for by asking for the sweep that beat would bring a minute later.
    """

    give_up_at = time.monotonic() + seconds_max
    sweep_at = time.monotonic() + _SWEEP_SECONDS
    with psycopg.connect(database_url, autocommit=True) as connection:
        while True:
            reports, events, known = connection.execute(_OPEN).fetchone() or (0, 0, 0)
            if not reports and not events and known >= events_at_least:
                return
            if time.monotonic() > give_up_at:
                raise TimeoutError(
                    f"{reports} meter reports and {events} events are open, {known} of {events_at_least} events arrived"
                )
            if time.monotonic() > sweep_at:
                sweep_at += _SWEEP_SECONDS
                for name in ("stripe.apply_events", "billing.send_meter_events"):
                    app.send_task(name, ignore_result=True)
            time.sleep(_POLL_SECONDS)

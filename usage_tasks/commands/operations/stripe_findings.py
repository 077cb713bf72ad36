"""What `usage-tasks doctor` finds of Stripe's clock, of reports that wait for it, and of events that are missed."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.errors import UsageError
from usage_tasks.runtime import Runtime
from usage_tasks.services.inbox.listed_objects import LISTS
from usage_tasks.services.inbox.missed_events import SPAN
from usage_tasks.settings import SettingsError
from usage_tasks.storage.inbox import list_progress
from usage_tasks.storage.metering import queue

SKEW_MAX: Final = timedelta(seconds=5)
"""Stripe shows its clock in whole seconds, and an answer takes a while."""

Finding = tuple[str, str, str, str]
"""The check, its verdict (fine, look or wrong), what was found, and what to do about it."""


def look_at_stripe(rt: Runtime) -> Iterator[Finding]:
    """Look at what is stored, and at the clock that Stripe showed when this process asked it last.

    Where the database is away, or has no tables yet, another finding says so.
    """
    try:
        with rt.transaction() as connection:
            stored = [*_missed(connection), *_early(connection)]
    except UsageError:
        stored = []
    yield from stored
    yield from _clock(rt)


def _missed(connection: Connection) -> Iterator[Finding]:
    span = list_progress.find_span(connection, SPAN)
    if span is None:
        return
    left = list_progress.list_under_way(connection, list(LISTS))
    gone = f"Stripe's events from {span.since:%Y-%m-%d %H:%M} until {span.until:%Y-%m-%d %H:%M} were gone"
    if left:
        names = ", ".join(name.removeprefix("missed ") for name in left)
        advice = "Wait: stripe.backfill_events goes on by itself. Is a worker of its queue alive?"
        yield "events", "look", f"{gone}; still to be looked at instead: {names}", advice
    else:
        yield "events", "fine", f"{gone}; the objects were looked at instead", ""


def _early(connection: Connection) -> Iterator[Finding]:
    early = queue.read_early(connection)
    if early.count:
        advice = "Set the database's clock right: Stripe's is behind it. The reports are sent by themselves then."
        yield "clocks", "wrong", f"{early.count} meter reports wait for Stripe's clock since {early.oldest_at}", advice


def _clock(rt: Runtime) -> Iterator[Finding]:
    if rt.settings.test_clock or not rt.settings.stripe_prices.by_key():
        return
    try:
        ahead = rt.stripe.find_clock_difference()
    except SettingsError:
        return
    if ahead is not None:
        wrong = abs(ahead) > SKEW_MAX
        found = f"this machine is {ahead.total_seconds():.0f} s ahead of Stripe"
        advice = "Run a time service: Stripe refuses reports, and the receiver its events." if wrong else ""
        yield "clocks", "wrong" if wrong else "fine", found, advice

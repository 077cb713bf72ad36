"""Stripe itself: its prices and meter, its clock, reports that wait for that clock, and events that are missed."""

from datetime import timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.commands.operations.findings.finding import Examination, Findings, describe_error, fine, look, wrong
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.services.inbox.listed_objects import LISTS
from usage_tasks.services.inbox.missed_events import SPAN
from usage_tasks.settings import SettingsError, read_stripe_credentials
from usage_tasks.storage.inbox import list_progress
from usage_tasks.storage.metering import queue
from usage_tasks.tasks.checks import check_now

SKEW_MAX: Final = timedelta(seconds=5)
"""Stripe shows its clock in whole seconds, and an answer takes a while."""


def look_at_stored(it: Examination) -> Findings:
    """Look at what is stored about Stripe's events and its clock."""
    with it.rt.transaction() as connection:
        found = [*_missed(connection), *_early(connection)]
    yield from found


def _missed(connection: Connection) -> Findings:
    span = list_progress.find_span(connection, SPAN)
    if span is None:
        return
    left = list_progress.list_under_way(connection, list(LISTS))
    gone = f"Stripe's events from {span.since:%Y-%m-%d %H:%M} until {span.until:%Y-%m-%d %H:%M} were gone"
    if left:
        names = ", ".join(name.removeprefix("missed ") for name in left)
        advice = "Wait: stripe.backfill_events goes on by itself; `usage-tasks jobs` shows whether it runs."
        yield look("events", f"{gone}; still to be looked at instead: {names}", advice)
    else:
        yield fine("events", f"{gone}; the objects were looked at instead")


def _early(connection: Connection) -> Findings:
    early = queue.read_early(connection)
    if early.count:
        advice = "Set the database's clock right: Stripe's is behind it. The reports are sent by themselves then."
        yield wrong("clocks", f"{early.count} meter reports wait for Stripe's clock since {early.oldest_at}", advice)


def ask_stripe(it: Examination) -> Findings:
    """Ask Stripe for the configured prices and their meter, and for its clock; nothing if none is configured."""
    rt = it.rt
    if not rt.settings.stripe_prices.by_key():
        return
    try:
        read_stripe_credentials(rt.settings, it.environ).get_secret_key()
    except SettingsError:
        return  # secrets.py knows whether that is wrong here
    try:
        check_now(rt)
    except RetryableError as error:
        advice = "Run `usage-tasks check-stripe` once Stripe can be reached."
        yield look("stripe", f"cannot be asked: {describe_error(error)}", advice)
    except PermanentError as error:
        advice = "Correct it in Stripe, or in stripePrices and the key: `usage-tasks check-stripe`."
        yield wrong("stripe", describe_error(error), advice)
    else:
        yield fine("stripe", "prices and meter are as the settings say")
    yield from _clock(it)


def _clock(it: Examination) -> Findings:
    ahead = None if it.rt.settings.test_clock else it.rt.stripe.find_clock_difference()
    if ahead is None:
        return
    found = f"this machine is {ahead.total_seconds():.0f} s ahead of Stripe"
    if abs(ahead) > SKEW_MAX:
        yield wrong("clocks", found, "Run a time service: Stripe refuses reports, and the receiver its events.")
    else:
        yield fine("clocks", found)

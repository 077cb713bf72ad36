"""Check that Stripe is set up like the settings: at the start of a Stripe worker, and again before it sends."""

import os
import sys
import time
from datetime import timedelta
from typing import Any, Final

import structlog
from celery import signals

from usage_tasks.coordination.celery_internals.routing import list_consumed_queues
from usage_tasks.domain.errors import MisconfiguredError, RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.services.metering.check_setup import ConfiguredPrice, check_stripe
from usage_tasks.settings import SettingsError, is_stripe_configured, load_settings
from usage_tasks.storage.operations.evidence import read_stripe_work

log = structlog.get_logger(__name__)

STRIPE_QUEUES: Final = frozenset({"billing", "stripe"})
_HOLDS_FOR: Final = timedelta(minutes=5)
"""So long a good answer is believed: a meter that is switched off meanwhile stops the sending soon."""


def check_now(rt: Runtime) -> None:
    """Ask Stripe. Raises MisconfiguredError with each wrong price and meter."""
    prices = [
        ConfiguredPrice(key=key, price_id=price_id, currency=currency)
        for key, (price_id, currency) in rt.settings.stripe_prices.by_key().items()
    ]
    check_stripe(rt.stripe, prices, event_name=rt.settings.stripe_meter_event_name)


def ensure_checked(rt: Runtime) -> None:
    """Ask Stripe unless this process did so lately."""
    if rt.stripe_checked_at is None or time.monotonic() - rt.stripe_checked_at > _HOLDS_FOR.total_seconds():
        check_now(rt)
        rt.stripe_checked_at = time.monotonic()


def forget(rt: Runtime) -> None:
    """Have the next `ensure_checked` ask."""
    rt.stripe_checked_at = None


def check_at_start(rt: Runtime) -> None:
    """Ask Stripe when a worker starts. The worker starts even if Stripe is away: it asks again before it sends."""
    if not rt.settings.stripe_prices.by_key():
        return
    try:
        check_now(rt)
    except RetryableError as error:
        log.warning("stripe.not_checked", reason=str(error))


def is_stripe_unused(rt: Runtime) -> bool:
    """Return True if Stripe is not configured and nothing waits for it: the tick of a job that asks Stripe ends then.

    With an account on `stripe` or a pending event the job asks, and its error about the missing key is seen.
    """
    if is_stripe_configured(rt.settings):
        return False
    with rt.transaction() as connection:
        work = read_stripe_work(connection)
    return not work.accounts and not work.events


@signals.celeryd_after_setup.connect
def _check_worker(instance: Any, **_: object) -> None:
    """Refuse to start a Stripe worker whose prices or meter differ from the settings: one error, exit code 2."""
    if STRIPE_QUEUES.isdisjoint(list_consumed_queues(instance.app)):
        return
    try:
        # A runtime of its own: no connection of it may live on in the children.
        check_at_start(Runtime(load_settings(os.environ)))
    except (MisconfiguredError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error

"""`billing.*`: the ledger's balances into Stripe. Stripe tasks: claim, call, settle; no transaction during a call."""

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import StringConstraints

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import AccountKind, parse_actor, parse_attribution
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.holds import PaymentIntentId
from usage_tasks.domain.payments import CURRENCIES, NewCustomer
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.ledger import reset
from usage_tasks.services.metering import decide_reports, send_reports
from usage_tasks.services.payments import holds, subscribe
from usage_tasks.settings import SettingsError
from usage_tasks.storage.metering import queue
from usage_tasks.storage.plans import Plan
from usage_tasks.tasks import checks
from usage_tasks.tasks.jobs import DryRun, Skipped, check_failed, run_job, take_batches
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, Credits, Moment, Name, UuidText

SEND_LIMIT: Final = 50_000
SEND_THREADS: Final = 16
_PATIENCE: Final = timedelta(seconds=20)
"""What was put off for no longer than this, the first four times, is waited for."""

_LONGEST: Final = timedelta(minutes=3)
_SENDING: Final = threading.Lock()

IntentId = Annotated[str, StringConstraints(strict=True, pattern=r"^pi_[A-Za-z0-9]{1,200}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncAnswer:
    """What the billing sync job decided: meter reports added."""

    reports: int


@task(name="billing.sync", time_limit=timedelta(minutes=4))
def sync_billing(
    at: Moment | None = None,
    scheduled: bool = False,  # noqa: FBT001, FBT002 - a wire argument
    dry_run: bool = False,  # noqa: FBT001, FBT002 - a wire argument
) -> SyncAnswer | Skipped | DryRun[Plan]:
    """Add a meter report for every paying account whose quantity changed, and have them sent."""
    rt = runtime()
    if dry_run:
        with rt.transaction() as connection:
            return DryRun(dry_run=decide_reports.plan_quantities(connection, at=rt.instant(at)))

    def work(rt: Runtime, now: datetime) -> SyncAnswer:
        settled = take_batches(rt, reset.settle_expired, at=now)  # what expired pays no more
        with rt.transaction() as connection:
            added = decide_reports.report_quantities(connection, at=now)
        send_meter_events.apply_async(ignore_result=True)
        check_failed(settled)
        return SyncAnswer(reports=added)

    return run_job(rt, "billing.sync", rt.settings.billing_sync_schedule, at=at, scheduled=scheduled, work=work)


@task(name="billing.send_meter_events", time_limit=timedelta(minutes=4))
def send_meter_events() -> send_reports.Sent:
    """Send the meter reports that are due; fails at the end, with counts, if any did not get in."""
    rt = runtime()
    with rt.transaction() as connection:
        if not queue.is_any_due(connection):
            return send_reports.Sent(accepted=0, retried=0, parked=0)
    checks.ensure_checked(rt)
    # One run a process has threads; another one beside it helps with its own.
    alone = _SENDING.acquire(blocking=False)
    try:
        sent = send_reports.send_reports(
            rt.transaction,
            rt.stripe,
            limit=SEND_LIMIT,
            threads=SEND_THREADS if alone else 1,
            patience=_PATIENCE,
            longest=_LONGEST,
        )
    finally:
        if alone:
            _SENDING.release()
    if sent.more:
        send_meter_events.apply_async(ignore_result=True)
    if sent.parked:
        checks.forget(rt)  # the set-up may have changed: the next run looks at it before it sends
    counts = f"meter events: {sent.parked} parked, {sent.retried} put off, {sent.accepted} accepted"
    if sent.parked:
        raise PermanentError(counts if sent.halted is None else f"{counts}; stopped: {sent.halted}")
    if sent.halted is not None or sent.waiting:
        raise RetryableError(f"{counts}, {sent.waiting} waiting; stopped: {sent.halted}")
    return sent


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerAnswer:
    """An account's customer in Stripe."""

    stripe_customer_id: str


@task(name="billing.create_stripe_customer", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def create_stripe_customer(
    attribution_id: Attribution,
    actor: ActorText,
    email: Annotated[str, StringConstraints(strict=True, min_length=3, max_length=320, pattern=r"^[^@\s]+@[^@\s]+$")],
    name: Name,
    currency: Literal["eur", "usd"],
    billing_creator_user_id: UuidText,
    at: Moment | None = None,
) -> CustomerAnswer:
    """Make an account's customer in Stripe, or answer the one that it has."""
    rt = runtime()
    customer = NewCustomer(
        attribution_id=parse_attribution(attribution_id).attribution_id,
        email=email,
        name=name,
        currency=currency,
        billing_creator_user_id=billing_creator_user_id,
    )
    made = subscribe.create_customer(rt.transaction, rt.stripe, customer, at=rt.instant(at), actor=parse_actor(actor))
    return CustomerAnswer(stripe_customer_id=made)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionAnswer:
    """An account's open subscription in Stripe."""

    stripe_subscription_id: str


@task(name="billing.create_stripe_subscription", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def create_stripe_subscription(
    attribution_id: Attribution,
    actor: ActorText,
    spending_limit: Credits | None = None,
    hold_payment_intent_id: IntentId | None = None,
    at: Moment | None = None,
) -> SubscriptionAnswer:
    """Subscribe an account's customer to our metered price, or answer its open subscription; it is on stripe then.

    With a confirmed hold its card becomes the customer's default first, and the hold is released.
    """
    rt = runtime()
    account = parse_attribution(attribution_id)
    if hold_payment_intent_id is not None:
        holds.use_hold(
            rt.transaction,
            rt.stripe,
            account.attribution_id,
            PaymentIntentId(hold_payment_intent_id),
            at=rt.instant(at),
            actor=parse_actor(actor),
        )
    made = subscribe.create_subscription(
        rt.transaction,
        rt.stripe,
        account,
        price_by_currency=price_by_currency(rt, account.kind),
        spending_limit=spending_limit,
        limits=rt.spending_limits,
        actor=parse_actor(actor),
    )
    return SubscriptionAnswer(stripe_subscription_id=made)


def price_by_currency(rt: Runtime, kind: AccountKind) -> dict[str, str]:
    """Answer the configured prices of a kind of account, by currency."""
    prices = {}
    for currency in CURRENCIES:
        try:
            price = rt.settings.stripe_prices.price_id("team" if kind is AccountKind.TEAM else "individual", currency)
        except SettingsError:
            continue
        prices[currency] = price
    return prices

"""The effects of time: billing cycles end, drafts are finalized, in the order they fall due."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from usage_tasks.stripe_simulator.bank import payments, refunding
from usage_tasks.stripe_simulator.state.world import GLOBAL_CLOCK, World, new_id
from usage_tasks.stripe_simulator.time import meter_errors
from usage_tasks.stripe_simulator.time.invoicing import DRAFT_GRACE, finalize, flat_line, open_draft, usage_lines
from usage_tasks.stripe_simulator.time.periods import period_end
from usage_tasks.stripe_simulator.wire.wire import JsonObject

CYCLE = "cycle"
FINALIZE = "finalize"
JOBS_PER_TRANSACTION = 50
ADVANCE_MAX = timedelta(days=3660)
TIME_MAX = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp())
IDEMPOTENCY_KEPT = timedelta(hours=24)
_NEXT = "SELECT seq, at, job, id FROM due WHERE clock = :clock AND at <= :until ORDER BY at, seq LIMIT 1"


def can_advance(now: int, until: int) -> bool:
    """Return True if a jump is plausible: ten years at most, and not past the next century."""
    return until - now <= ADVANCE_MAX.total_seconds() and until <= TIME_MAX


def run_due(world: World, clock: str, *, until: int) -> bool:
    """Do a bounded number of the things due by `until`, oldest first; return True if none is left.

    The clock goes along, and reaches `until` once nothing is left. No request is the cause of what happens.
    """
    world = replace(world, request_id=None, idempotency_key=None)
    for _ in range(JOBS_PER_TRANSACTION):
        row = world.store.row(_NEXT, clock=clock, until=until)
        if row is None:
            world.set_clock(clock, until)
            if clock == GLOBAL_CLOCK:
                oldest = until - int(IDEMPOTENCY_KEPT.total_seconds())
                world.store.execute("DELETE FROM idempotency WHERE at < :oldest", oldest=oldest)
            return True
        seq, at, job, subject = row
        world.store.execute("DELETE FROM due WHERE seq = :seq", seq=seq)
        world.set_clock(clock, at)
        if job == CYCLE:
            _end_period(world, subject, at=at)
        elif job == meter_errors.REPORT:
            meter_errors.report(world, subject, at=at)
        elif job == payments.EXPIRE:
            payments.expire(world, subject, at=at)
        elif job == refunding.SETTLE:
            refunding.settle(world, subject, at=at)
        else:
            finalize(world, subject, at=at)
    return False


def start(world: World, subscription: JsonObject, *, at: int) -> None:
    """Announce a new subscription and bill its start: nothing for meters, the first period of licensed items."""
    items = subscription["items"]["data"]
    lines = []
    for item in items:
        if metered(item):
            lines += usage_lines(world, subscription, item, start=at, end=at)
        else:
            lines.append(flat_line(subscription, item, start=at, end=item["current_period_end"]))
    identifier = new_id("invoice")
    subscription["latest_invoice"] = identifier
    world.store.put(subscription)
    reason = "subscription_create"
    invoice = open_draft(world, subscription, lines, at=at, start=at, reason=reason, identifier=identifier)
    world.emit("customer.subscription.created", subscription, at=at)
    world.emit("invoice.created", invoice, at=at)
    finalize(world, identifier, at=at)
    _schedule_period_end(world, subscription)


def cancel(world: World, before: JsonObject, *, at: int, changes: JsonObject, invoice_now: bool) -> JsonObject:
    """End a subscription at once. The meters' usage is billed only on request."""
    after = {**before, **changes}
    if invoice_now:
        period_start = before["items"]["data"][0]["current_period_start"]
        after = _bill(
            world, after, _usage_lines(world, after, at=at), at=at, start=period_start, reason="subscription_update"
        )
    return _over(world, after, at=at)


def metered(item: JsonObject) -> bool:
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def _end_period(world: World, identifier: str, *, at: int) -> None:
    """Bill the period that ends at `at` and begin the next one, or end the subscription if it was to."""
    before = world.get("subscription", identifier)
    if before["ended_at"] is not None:
        return
    lines = _usage_lines(world, before, at=at)
    period_start = before["items"]["data"][0]["current_period_start"]
    if before["cancel_at_period_end"]:
        last = _bill(world, before, lines, at=at, start=period_start, reason="subscription_cycle")
        _over(world, last, at=at)
        return
    items = [_next_period(before, item) for item in before["items"]["data"]]
    after = {**before, "items": {**before["items"], "data": items}}
    lines += [flat_line(after, item, start=at, end=item["current_period_end"]) for item in items if not metered(item)]
    after = _bill(world, after, lines, at=at, start=period_start, reason="subscription_cycle")
    world.store.put(after)
    world.emit("customer.subscription.updated", after, at=at, before=before)
    _schedule_period_end(world, after)


def _usage_lines(world: World, subscription: JsonObject, *, at: int) -> list[JsonObject]:
    return [
        line
        for item in subscription["items"]["data"]
        if metered(item)
        for line in usage_lines(world, subscription, item, start=item["current_period_start"], end=at)
    ]


def _bill(
    world: World, subscription: JsonObject, lines: Iterable[JsonObject], *, at: int, start: int, reason: str
) -> JsonObject:
    """Open a draft over the lines, due to be finalized after the grace; return the subscription that names it."""
    lines = list(lines)
    if not lines:
        return subscription
    identifier = new_id("invoice")
    invoice = open_draft(world, subscription, lines, at=at, start=start, reason=reason, identifier=identifier)
    world.emit("invoice.created", invoice, at=at)
    finalized_at = at + int(DRAFT_GRACE.total_seconds())
    world.schedule(clock=subscription["test_clock"], at=finalized_at, job=FINALIZE, subject=identifier)
    return {**subscription, "latest_invoice": identifier}


def _over(world: World, subscription: JsonObject, *, at: int) -> JsonObject:
    canceled_at = subscription["canceled_at"] or at
    ended = {**subscription, "status": "canceled", "ended_at": at, "canceled_at": canceled_at}
    world.store.put(ended)
    world.unschedule(job=CYCLE, subject=ended["id"])
    world.emit("customer.subscription.deleted", ended, at=at)
    return ended


def _next_period(subscription: JsonObject, item: JsonObject) -> JsonObject:
    begins, recurring = item["current_period_end"], item["price"]["recurring"]
    ends = period_end(
        anchor=subscription["billing_cycle_anchor"],
        start=begins,
        interval=recurring["interval"],
        count=recurring["interval_count"],
    )
    return {**item, "current_period_start": begins, "current_period_end": ends}


def _schedule_period_end(world: World, subscription: JsonObject) -> None:
    at = subscription["items"]["data"][0]["current_period_end"]
    world.schedule(clock=subscription["test_clock"], at=at, job=CYCLE, subject=subscription["id"])

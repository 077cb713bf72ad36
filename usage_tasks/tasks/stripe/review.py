"""`stripe.backfill_events` and what operators do to events: look through Stripe's list, replay, drop."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Final

import structlog
from pydantic import Field, StrictStr, StringConstraints
from sqlalchemy import Connection

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor
from usage_tasks.domain.errors import InvalidInputError, PermanentError
from usage_tasks.domain.events import EventKind
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.inbox import missed_events
from usage_tasks.services.inbox import review_events as review
from usage_tasks.services.inbox.backfill_events import Backfilled
from usage_tasks.services.inbox.backfill_events import backfill_events as backfill
from usage_tasks.services.inbox.review_events import REVIEW_MAX, Reviewed
from usage_tasks.storage.inbox import list_progress
from usage_tasks.tasks import checks
from usage_tasks.tasks.jobs import DryRun, Skipped, run_job
from usage_tasks.tasks.stripe.events import EventId, have_applied
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import PRINTABLE, ActorText, Flag, Moment

log = structlog.get_logger(__name__)

BACKFILL_JOB: Final = "stripe.backfill_events"

EventIds = Annotated[list[EventId], Field(min_length=1, max_length=REVIEW_MAX)]
Reason = Annotated[StrictStr, StringConstraints(min_length=1, max_length=500, pattern=r"\S"), PRINTABLE]


@task(name=BACKFILL_JOB, time_limit=timedelta(minutes=4))
def backfill_events(
    at: Moment | None = None,
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
) -> Backfilled | Skipped:
    """Store every event of Stripe's list that is not in the inbox, and have them applied.

    If events are gone from the list, that is logged, and the objects themselves are looked at.
    """
    rt = runtime()

    def work(fenced: Runtime, now: object) -> Backfilled:
        del now  # Stripe's list knows no other time than the present one
        if scheduled and checks.is_stripe_unused(fenced):
            return Backfilled()
        done, failed = Backfilled(), list[PermanentError]()
        for kind in EventKind:
            try:
                done += backfill(fenced.transaction, fenced.stripe, kind, at=fenced.now())
            except PermanentError as error:
                failed.append(error)
        if done.missed:
            _report_missed(fenced)
        looked = missed_events.look_at_objects(fenced.transaction, fenced.stripe, at=fenced.now())
        done += Backfilled(stored=looked.stored, unfinished=looked.unfinished, looked_at=looked.looked_at)
        failed += looked.failed
        if done.stored:
            have_applied(rt)
        if failed:
            raise failed[0]
        if done.unfinished:
            backfill_events.apply_async(ignore_result=True)
        return done

    schedule = rt.settings.stripe_backfill_schedule
    return run_job(rt, BACKFILL_JOB, schedule, at=at, scheduled=scheduled, work=work)


def _report_missed(rt: Runtime) -> None:
    with rt.transaction() as connection:
        span = list_progress.find_span(connection, missed_events.SPAN)
    if span is not None:
        log.warning("stripe.events_missed", since=span.since.isoformat(), until=span.until.isoformat())


@task(name="stripe.replay_events", time_limit=timedelta(minutes=1), needs=Role.ADMINISTRATOR)
def replay_events(
    actor: ActorText,
    ids: EventIds | None = None,
    all_parked: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = True,  # noqa: FBT002 - a wire argument
    at: Moment | None = None,
) -> Reviewed | DryRun[Reviewed]:
    """Apply events again: the named ones, of any state, or all parked ones. A dry run by default."""
    rt = runtime()
    chosen, who = _chosen(ids, all_parked=all_parked), parse_actor(actor)
    now = rt.effective_instant(at, who)
    if dry_run:
        return _rehearsed(rt, lambda connection: review.plan_replay(connection, chosen))
    with rt.transaction() as connection:
        done = review.replay_events(connection, chosen, at=now, actor=who)
    have_applied(rt)
    return done


@task(name="stripe.drop_events", time_limit=timedelta(minutes=1), needs=Role.ADMINISTRATOR)
def drop_events(
    actor: ActorText,
    reason: Reason,
    ids: EventIds | None = None,
    all_parked: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = True,  # noqa: FBT002 - a wire argument
    at: Moment | None = None,
) -> Reviewed | DryRun[Reviewed]:
    """Drop parked or pending events, with a reason. A dry run by default."""
    rt = runtime()
    chosen, who = _chosen(ids, all_parked=all_parked), parse_actor(actor)
    now = rt.effective_instant(at, who)
    if dry_run:
        return _rehearsed(rt, lambda connection: review.plan_drop(connection, chosen))
    with rt.transaction() as connection:
        return review.drop_events(connection, chosen, reason=reason, at=now, actor=who)


def _rehearsed(rt: Runtime, plan: Callable[[Connection], Reviewed]) -> DryRun[Reviewed]:
    with rt.transaction() as connection:
        return DryRun(dry_run=plan(connection))


def _chosen(ids: list[str] | None, *, all_parked: bool) -> list[str] | None:
    if (ids is not None) == all_parked:
        raise InvalidInputError("all_parked", all_parked, "true without ids, and false with them")
    return ids

"""`usage.*`: sessions in, the ledger and its cycles, balances and cost centers out. Ledger tasks: no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, StrictInt

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_attribution
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.sessions import Rejection
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.directory import access
from usage_tasks.services.ledger import cost_center, post_usage, read_usage, reset
from usage_tasks.services.sessions import record
from usage_tasks.tasks.jobs import BATCHES_MAX, DryRun, Skipped, check_failed, run_job, take_batches
from usage_tasks.tasks.task import task
from usage_tasks.tasks.usage.publish_balances import SnapshotOutcome, show_balances
from usage_tasks.tasks.usage.quarantine import show_waiting
from usage_tasks.wire.session_reports import REPORTS_MAX, RawReport, parse_reports
from usage_tasks.wire.values import ActorText, Attribution, Credits, Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAnswer:
    """What became of each report: counts, and the refused ones by their place in the batch."""

    inserted: int
    updated: int
    unchanged: int
    quarantined: int
    rejections: Sequence[Rejection]


@task(name="usage.record_instances", time_limit=timedelta(minutes=1), needs=Role.ADMINISTRATOR)
def record_instances(
    instances: Annotated[list[RawReport], Field(max_length=REPORTS_MAX)], actor: ActorText, at: Moment | None = None
) -> RecordAnswer:
    """Take up reports of sessions; safe to send again. Bad ones come back with index, field and reason."""
    rt = runtime()
    now = rt.instant(at)
    reports, malformed = parse_reports(instances, at=now)
    with rt.transaction() as connection:
        done = record.record_reports(
            connection,
            reports,
            malformed,
            raw=instances,
            limits=rt.spending_limits,
            at=now,
            actor=parse_actor(actor),
        )
    return RecordAnswer(
        inserted=done.merged.inserted,
        updated=done.merged.updated,
        unchanged=done.merged.unchanged,
        quarantined=len(done.rejections),
        rejections=done.rejections,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileAnswer:
    """What the ledger job did: entries posted and their sum, grants' expiries, announced limits, balances in Redis.

    `zombies` counts sessions capped anew, `zombies_lifted` caps whose cause was switched off. The snapshot is
    "written", "failed" (Redis is away: the next tick makes up for it), or "skipped" by a run for an instant of its
    own: it shows the present.
    """

    entries: int
    credit_cents: int
    expiries: int
    thresholds_reached: int
    limits_reached: int
    hard_limits_reached: int
    zombies: int
    zombies_lifted: int
    snapshot: SnapshotOutcome
    snapshots_written: int


@task(name="usage.reconcile", time_limit=timedelta(minutes=4))
def reconcile_usage(
    at: Moment | None = None,
    scheduled: bool = False,  # noqa: FBT001, FBT002 - a wire argument
    dry_run: bool = False,  # noqa: FBT001, FBT002 - a wire argument
) -> ReconcileAnswer | Skipped | DryRun[post_usage.ReconcilePlan]:
    """Cap zombies, post every session that had stopped by `at`, announce limits, show balances in Redis."""
    rt = runtime()
    if dry_run:
        with rt.transaction() as connection:
            plan = post_usage.plan_reconcile(
                connection,
                at=rt.instant(at),
                heartbeat_grace=rt.settings.heartbeat_grace,
                lifetime_max=rt.settings.max_session_lifetime,
                policy=rt.limit_policy,
            )
        return DryRun(dry_run=plan)

    def work(rt: Runtime, now: datetime) -> ReconcileAnswer:
        capped, lifted = _cap_zombies(rt, now)
        posted, cents = 0, 0
        for _ in range(BATCHES_MAX):
            with rt.transaction() as connection:
                batch = post_usage.post_batch(connection, at=now)
            posted, cents = posted + batch.entries, cents + batch.credit_cents
            if batch.entries < post_usage.BATCH:
                break
        settled = take_batches(rt, reset.settle_expired, at=now)  # before limits: what expired pays no more
        with rt.transaction() as connection:
            reached = post_usage.announce_limits(connection, at=now, policy=rt.limit_policy)
        outcome: SnapshotOutcome = "skipped"
        written = 0
        if at is None:
            outcome, written = show_balances(rt, at=now)
            show_waiting(rt)
        check_failed(settled)
        return ReconcileAnswer(
            entries=posted,
            credit_cents=cents,
            expiries=settled.expiries,
            thresholds_reached=reached.thresholds,
            limits_reached=reached.limits,
            hard_limits_reached=reached.hard_limits,
            zombies=capped,
            zombies_lifted=lifted,
            snapshot=outcome,
            snapshots_written=written,
        )

    return run_job(rt, "usage.reconcile", rt.settings.controller_schedule, at=at, scheduled=scheduled, work=work)


def _cap_zombies(rt: Runtime, now: datetime) -> tuple[int, int]:
    capped, lifted = 0, 0
    for _ in range(BATCHES_MAX):
        with rt.transaction() as connection:
            grace, lifetime = rt.settings.heartbeat_grace, rt.settings.max_session_lifetime
            batch = post_usage.cap_batch(connection, at=now, heartbeat_grace=grace, lifetime_max=lifetime)
        capped, lifted = capped + batch.capped, lifted + batch.lifted
        if batch.changed < post_usage.BATCH:
            break
    return capped, lifted


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetAnswer:
    """What the reset job did: cycles ended."""

    cycles: int


@task(name="usage.reset", time_limit=timedelta(minutes=4))
def reset_usage(
    at: Moment | None = None,
    scheduled: bool = False,  # noqa: FBT001, FBT002 - a wire argument
    dry_run: bool = False,  # noqa: FBT001, FBT002 - a wire argument
) -> ResetAnswer | Skipped | DryRun[reset.ResetPlan]:
    """End every billing cycle on strategy other that is due at `at`; fails at the end if any account failed."""
    rt = runtime()
    if dry_run:
        with rt.transaction() as connection:
            return DryRun(dry_run=reset.plan_resets(connection, at=rt.instant(at)))

    def work(rt: Runtime, now: datetime) -> ResetAnswer:
        batch = take_batches(rt, reset.reset_due, at=now)
        check_failed(batch)
        return ResetAnswer(cycles=batch.cycles)

    return run_job(rt, "usage.reset", rt.settings.reset_usage_schedule, at=at, scheduled=scheduled, work=work)


@task(name="usage.get_balance", time_limit=timedelta(seconds=30), needs=Role.OWNER)
def get_balance(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> read_usage.BalanceStanding:
    """Answer an account's live balance at an instant, beside its limit."""
    rt = runtime()
    account = parse_attribution(attribution_id)
    now = rt.instant(at)
    with rt.transaction() as connection:
        cost_center.get_cost_center(connection, account, limits=rt.spending_limits, at=now, actor=parse_actor(actor))
        return read_usage.get_standing(connection, account, at=now)


@task(name="usage.list", time_limit=timedelta(seconds=60), needs=Role.MEMBER)
def list_usage(
    attribution_id: Attribution,
    actor: ActorText,
    start: Moment,
    end: Moment,
    order: Literal["ascending", "descending"] = "descending",
    page: StrictInt = 1,
    per_page: StrictInt = read_usage.PER_PAGE_DEFAULT,
    at: Moment | None = None,
) -> read_usage.UsagePage:
    """List an account's usage in [start, end), drafts included; to a member of a team their own."""
    rt = runtime()
    account = parse_attribution(attribution_id)
    with rt.transaction() as connection:
        return read_usage.list_usage(
            connection,
            account,
            of_user=access.find_whose_usage(connection, parse_actor(actor), account),
            start=start,
            end=end,
            at=rt.instant(at),
            order=order,
            page=page,
            per_page=per_page,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCenterAnswer:
    """A cost center as it stands: limit in credits, the current cycle, the version for a compare-and-set."""

    attribution_id: str
    version: int
    billing_strategy: str
    spending_limit: int
    cycle_started_at: datetime
    next_billing_at: datetime


def _answer(current: CostCenter) -> CostCenterAnswer:
    return CostCenterAnswer(
        attribution_id=current.attribution_id,
        version=current.version,
        billing_strategy=current.billing_strategy.value,
        spending_limit=current.spending_limit,
        cycle_started_at=current.cycle.started_at,
        next_billing_at=current.next_billing_at,
    )


@task(name="usage.get_cost_center", time_limit=timedelta(seconds=30), needs=Role.OWNER)
def get_cost_center(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> CostCenterAnswer:
    """Answer an account's cost center; opened if unknown, due resets applied first."""
    rt = runtime()
    with rt.transaction() as connection:
        return _answer(
            cost_center.get_cost_center(
                connection,
                parse_attribution(attribution_id),
                limits=rt.spending_limits,
                at=rt.instant(at),
                actor=parse_actor(actor),
            )
        )


@task(name="usage.set_cost_center", time_limit=timedelta(seconds=30), needs=Role.OWNER)
def set_cost_center(
    attribution_id: Attribution,
    actor: ActorText,
    billing_strategy: Literal["stripe", "other"],
    spending_limit: Credits | None = None,
    expected_version: StrictInt | None = None,
    at: Moment | None = None,
) -> CostCenterAnswer:
    """Set an account's strategy, which may not be left out, and its limit in credits.

    What is, or comes to be, on strategy other is an administrator's to set.
    """
    rt = runtime()
    account, strategy = parse_attribution(attribution_id), BillingStrategy(billing_strategy)
    with rt.transaction() as connection:
        access.admit_to_set_cost_center(connection, parse_actor(actor), account, strategy)
        return _answer(
            cost_center.set_cost_center(
                connection,
                account,
                strategy=strategy,
                spending_limit=spending_limit,
                expected_version=expected_version,
                limits=rt.spending_limits,
                at=rt.instant(at),
                actor=parse_actor(actor),
            )
        )

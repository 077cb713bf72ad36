"""`usage.*` on what ran: reports, snapshots that heal lost reports, zombies released. Ledger tasks: no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_uuid
from usage_tasks.domain.sessions import Rejection
from usage_tasks.runtime import runtime
from usage_tasks.services.sessions import record, release_zombie, snapshot
from usage_tasks.services.sessions.record import RecordedBatch
from usage_tasks.storage.plans import Plan
from usage_tasks.storage.sessions.zombies import Zombie
from usage_tasks.tasks.jobs import DryRun
from usage_tasks.tasks.task import task
from usage_tasks.wire.session_reports import REPORTS_MAX, SNAPSHOT_MAX, RawReport, parse_reports
from usage_tasks.wire.values import ActorText, Flag, Moment, Name, SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAnswer:
    """The outcome of the reports: counts, and the refused ones by their place in the batch."""

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
    who = parse_actor(actor)
    now = rt.instant(at, who)
    opens_at, arrived_at = rt.settling_instant(now, who), rt.arrival(now)
    reports, malformed = parse_reports(instances, at=now, namespace=rt.name_namespace)
    with rt.transaction() as connection:
        done = record.record_reports(
            connection,
            reports,
            malformed,
            raw=instances,
            limits=rt.spending_limits,
            at=now,
            arrived_at=arrived_at,
            opens_at=opens_at,
            actor=who,
        )
    return RecordAnswer(
        inserted=done.merged.inserted,
        updated=done.merged.updated,
        unchanged=done.merged.unchanged,
        quarantined=len(done.rejections),
        rejections=done.rejections,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotAnswer:
    """The result of a snapshot: sessions recorded, sessions ended because they were missing, and the refused rows.

    If it is not `complete`, a row did not even name its session, and so nothing was ended.
    """

    inserted: int
    updated: int
    unchanged: int
    ended: int
    complete: bool
    quarantined: int
    rejections: Sequence[Rejection]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPlan:
    """The planned result of a snapshot, as a SnapshotAnswer, and the sessions that it would end."""

    inserted: int
    updated: int
    unchanged: int
    ended: Plan
    complete: bool
    quarantined: int
    rejections: Sequence[Rejection]


@task(name="usage.report_running", time_limit=timedelta(minutes=2), needs=Role.ADMINISTRATOR)
def report_running(
    source: Name,
    instances: Annotated[list[RawReport], Field(max_length=SNAPSHOT_MAX)],
    actor: ActorText,
    at: Moment,
    dry_run: Flag = False,  # noqa: FBT002 - a wire argument
) -> SnapshotAnswer | DryRun[SnapshotPlan]:
    """Take up the full list of what ran in a source at an instant, which may not be left out; safe to send again.

    Sessions of that source that are not in it and were not seen since end at their last proof of life.
    """
    rt = runtime()
    who = parse_actor(actor)
    taken_at = rt.instant(at, who)
    reports, malformed = parse_reports(instances, at=taken_at, namespace=rt.name_namespace, source=source)
    listed = snapshot.Snapshot(
        source=source,
        taken_at=taken_at,
        arrived_at=rt.arrival(taken_at),
        opens_at=rt.settling_instant(taken_at, who),
        reports=reports,
        malformed=malformed,
        raw=instances,
    )
    heal: dict[str, Any] = {"limits": rt.spending_limits, "actor": who}
    with rt.transaction() as connection:
        if dry_run:
            plan = snapshot.plan_running(connection, listed, **heal)
            return DryRun(dry_run=SnapshotPlan(**_counts(plan.recorded), ended=plan.ended, complete=plan.complete))
        done = snapshot.report_running(connection, listed, **heal)
    return SnapshotAnswer(**_counts(done.recorded), ended=done.ended, complete=done.complete)


def _counts(recorded: RecordedBatch) -> dict[str, Any]:
    return {
        "inserted": recorded.merged.inserted,
        "updated": recorded.merged.updated,
        "unchanged": recorded.merged.unchanged,
        "quarantined": len(recorded.rejections),
        "rejections": recorded.rejections,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseAnswer:
    """The lifted cap: its reason and the instant up to which the session had accrued; null if there was no cap."""

    instance_id: str
    released: str | None
    capped_at: datetime | None


@task(name="usage.release_session", time_limit=timedelta(seconds=30), needs=Role.ADMINISTRATOR)
def release_session(
    instance_id: SessionId,
    actor: ActorText,
    at: Moment | None = None,
    dry_run: Flag = False,  # noqa: FBT002 - a wire argument
) -> ReleaseAnswer | DryRun[ReleaseAnswer]:
    """Let a capped session accrue again by its facts; it is not capped again for the same reason."""
    rt = runtime()
    session, who = parse_uuid(instance_id), parse_actor(actor)
    acted_at = rt.effective_instant(at, who)
    with rt.transaction() as connection:
        if dry_run:
            return DryRun(dry_run=_answer(instance_id, release_zombie.plan_release(connection, session)))
        return _answer(instance_id, release_zombie.release_session(connection, session, at=acted_at, actor=who))


def _answer(instance_id: str, zombie: Zombie | None) -> ReleaseAnswer:
    return ReleaseAnswer(
        instance_id=instance_id,
        released=None if zombie is None else zombie.cap_reason.value,
        capped_at=None if zombie is None else zombie.capped_at,
    )

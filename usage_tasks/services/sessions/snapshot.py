"""Take up a snapshot of what runs: renew, take up what is unknown, end what is missing. Source: docs/adr/0008."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.services.sessions.record import RecordedBatch, record_reports
from usage_tasks.storage.directory.names import read_namespace
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.plans import NOTHING, Plan
from usage_tasks.storage.sessions import source_snapshots
from usage_tasks.wire.session_reports import find_instance_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that ran in a source at an instant: the rows as they came, and how each was read.

    `arrived_at` is when it came: a row proves life until then at most. `opens_at` is the instant as of which it opens
    unknown accounts. Without `arrived_at` no row is bounded; without `opens_at` it is `taken_at`.
    """

    source: str
    taken_at: datetime
    reports: Sequence[SessionReport]
    malformed: Sequence[Rejection]
    raw: Sequence[object]
    arrived_at: datetime | None = None
    opens_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """The result of a snapshot. If it is not `complete`, some row did not name its session: nothing was ended."""

    recorded: RecordedBatch
    ended: int
    complete: bool


def report_running(
    connection: Connection,
    snapshot: Snapshot,
    *,
    limits: SpendingLimits,
    actor: Actor,
) -> Healed:
    """Merge a snapshot's rows, then end the sessions of its source that nobody has seen since it was taken.

    A refused row still proves that its session runs.
    """
    recorded, complete = _take_up(connection, snapshot, limits=limits, actor=actor)
    ended = 0
    if complete:
        ended = source_snapshots.end_missing(connection, snapshot.source, taken_at=snapshot.taken_at, actor=actor)
    return Healed(recorded=recorded, ended=ended, complete=complete)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealingPlan:
    """The planned result of a snapshot, and the sessions that it would end."""

    recorded: RecordedBatch
    ended: Plan
    complete: bool


def plan_running(
    connection: Connection,
    snapshot: Snapshot,
    *,
    limits: SpendingLimits,
    actor: Actor,
) -> HealingPlan:
    """Return what `report_running` would do, by executing it and rolling back."""
    with rehearsal(connection):
        recorded, complete = _take_up(connection, snapshot, limits=limits, actor=actor)
        ended = NOTHING
        if complete:
            ended = source_snapshots.plan_missing(connection, snapshot.source, taken_at=snapshot.taken_at)
    return HealingPlan(recorded=recorded, ended=ended, complete=complete)


def _take_up(
    connection: Connection,
    snapshot: Snapshot,
    *,
    limits: SpendingLimits,
    actor: Actor,
) -> tuple[RecordedBatch, bool]:
    """Merge a snapshot's rows, and renew rows without effect. Return True if each row names its session."""
    source_snapshots.lock_source(connection, snapshot.source)
    recorded = record_reports(
        connection,
        snapshot.reports,
        snapshot.malformed,
        raw=snapshot.raw,
        limits=limits,
        at=snapshot.taken_at,
        arrived_at=snapshot.arrived_at,
        opens_at=snapshot.opens_at,
        actor=actor,
        snapshot_source=snapshot.source,
    )
    namespace = cache(partial(read_namespace, connection))
    refused = [snapshot.raw[each.index] for each in recorded.rejections]
    listed = [find_instance_id(row, namespace=namespace) for row in refused]
    known = {instance_id for instance_id in listed if instance_id is not None}
    source_snapshots.renew(connection, known, seen_at=snapshot.taken_at)
    return recorded, None not in listed

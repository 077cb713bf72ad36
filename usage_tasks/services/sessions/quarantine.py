"""Release what was refused: each report is taken up as if it came now, and what still fails stays, with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.services.sessions.record import RecordedBatch, take_up
from usage_tasks.services.sessions.refused import Reading, read_again
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.operations import audit
from usage_tasks.storage.sessions import merging, quarantine, source_snapshots
from usage_tasks.storage.sessions.merging import Merged
from usage_tasks.storage.sessions.quarantine import QuarantinedReport, Selection

BATCH: Final = 500
SAMPLE_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StillRefused:
    """A report that stays in quarantine, and why it is refused now."""

    id: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedReports:
    """The outcome of the chosen reports: recorded and so released, or refused again, with some of these listed.

    `inserted`, `updated` and `unchanged` count the effects of the released reports.
    """

    released: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    still_refused: int = 0
    sample: Sequence[StillRefused] = ()

    def __add__(self, other: "ReleasedReports") -> "ReleasedReports":
        """Add two batches up."""
        return ReleasedReports(
            released=self.released + other.released,
            inserted=self.inserted + other.inserted,
            updated=self.updated + other.updated,
            unchanged=self.unchanged + other.unchanged,
            still_refused=self.still_refused + other.still_refused,
            sample=[*self.sample, *other.sample][:SAMPLE_MAX],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseBatch:
    """The result of a batch, and its last report, or None if nothing was left."""

    done: ReleasedReports
    last: QuarantinedReport | None


def release_batch(
    connection: Connection,
    selection: Selection,
    *,
    after: QuarantinedReport | None,
    limits: SpendingLimits,
    at: datetime,
    actor: Actor,
) -> ReleaseBatch:
    """Take up the next of the reports that are meant, the oldest first, and note it in the audit."""
    held, taken = _take_batch(connection, selection, after=after, limits=limits, at=at, actor=actor)
    good = [each for number, each in enumerate(held) if number not in taken.refused]
    removed = quarantine.remove(connection, good)
    refused = [(held[number], why) for number, why in sorted(taken.refused.items())]
    quarantine.note_reasons(connection, refused, instances=taken.instances)
    if removed:
        _audit(connection, "quarantine.released", sorted(removed), at=at, actor=actor)
    return ReleaseBatch(done=_summary(held, taken, released=len(removed)), last=held[-1] if held else None)


def plan_release(
    connection: Connection, selection: Selection, *, limits: SpendingLimits, at: datetime, actor: Actor
) -> ReleasedReports:
    """Return what a release would do, by executing it and rolling back. Until it ends, it holds the sessions' locks."""
    done = ReleasedReports()
    after = None
    with rehearsal(connection):
        while True:
            held, taken = _take_batch(connection, selection, after=after, limits=limits, at=at, actor=actor)
            if not held:
                return done
            done += _summary(held, taken, released=len(held) - len(taken.refused))
            after = held[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """The result of recording a batch, and by place the reasons for refusals and the sessions that could be read."""

    merged: Sequence[Merged]
    refused: Mapping[int, Rejection]
    instances: Mapping[int, UUID]


def _take_batch(
    connection: Connection,
    selection: Selection,
    *,
    after: QuarantinedReport | None,
    limits: SpendingLimits,
    at: datetime,
    actor: Actor,
) -> tuple[Sequence[QuarantinedReport], _Taken]:
    quarantine.lock_releases(connection)
    held = quarantine.list_selected(connection, selection, after=after, limit=BATCH)
    read = read_again(connection, held, at=at)
    refused = {each.found.index: each.found for each in read if isinstance(each.found, Rejection)}
    reports = [each.found for each in read if isinstance(each.found, SessionReport)]
    # All at once and in order, sources before sessions: a merge locks those of its own part only.
    source_snapshots.lock_sources(connection, {each.source for each in reports if each.source is not None})
    digests = {each.digest for each in held}

    def take(seen_at: datetime | None, part: Sequence[SessionReport]) -> RecordedBatch:
        return take_up(
            connection, part, limits=limits, at=at, actor=actor, seen_at=seen_at, arrived_at=at, releasing=digests
        )

    parts = _by_snapshot(held, read)
    merging.lock_sessions(connection, {each.instance_id for each in reports})
    taken = [take(seen_at, part) for seen_at, part in parts]
    if sum(each.taken_over for each in taken[1:]):
        # What an earlier part refused may agree with a session that a later part took over.
        rejected = [{why.index for why in each.rejections} for each in taken]
        taken = [replace(each, rejections=()) for each in taken]
        for (seen_at, part), indexes in zip(parts, rejected, strict=True):
            if again := [report for report in part if report.index in indexes]:
                taken.append(take(seen_at, again))
    refused |= {why.index: why for each in taken for why in each.rejections}
    instances = {each.index: each.instance_id for each in reports}
    return held, _Taken(merged=[each.merged for each in taken], refused=refused, instances=instances)


def _by_snapshot(
    held: Sequence[QuarantinedReport], read: Sequence[Reading]
) -> Sequence[tuple[datetime | None, list[SessionReport]]]:
    """Group reports by the instant at which a snapshot listed them, rising; reports outside of snapshots are first."""
    parts: dict[datetime | None, list[SessionReport]] = {None: []}
    for each in sorted(read, key=lambda each: each.sent_at):
        if isinstance(each.found, SessionReport):
            listed = held[each.found.index].snapshot_source is not None
            parts.setdefault(each.sent_at if listed else None, []).append(each.found)
    return [(seen_at, part) for seen_at, part in parts.items() if part]


def _summary(held: Sequence[QuarantinedReport], taken: _Taken, *, released: int) -> ReleasedReports:
    sample = [
        StillRefused(id=held[number].digest, field=why.field, reason=why.reason)
        for number, why in sorted(taken.refused.items())[:SAMPLE_MAX]
    ]
    return ReleasedReports(
        released=released,
        inserted=sum(each.inserted for each in taken.merged),
        updated=sum(each.updated for each in taken.merged),
        unchanged=sum(each.unchanged for each in taken.merged),
        still_refused=len(taken.refused),
        sample=sample,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DropBatch:
    """Reports that were dropped, and the last report looked at; None if none is left."""

    dropped: Sequence[QuarantinedReport]
    last: QuarantinedReport | None


def drop_batch(
    connection: Connection, selection: Selection, *, after: QuarantinedReport | None, at: datetime, actor: Actor
) -> DropBatch:
    """Remove the next of the reports that are meant for good, and note it in the audit.

    A report that another transaction is sending again or taking up at this moment stays.
    """
    quarantine.lock_releases(connection)
    held = quarantine.list_selected(connection, selection, after=after, limit=BATCH)
    # What is in use is being sent again or taken up.
    removed = quarantine.remove(connection, held, in_use_too=False)
    if removed:
        _audit(connection, "quarantine.dropped", sorted(removed), at=at, actor=actor)
    dropped = [each for each in held if each.digest in removed]
    return DropBatch(dropped=dropped, last=held[-1] if held else None)


def _audit(connection: Connection, action: str, ids: Sequence[str], *, at: datetime, actor: Actor) -> None:
    details = {"reports": len(ids), "ids": ids}
    audit.append_audit(connection, at=at, actor=actor, action=action, attribution_id=None, details=details)

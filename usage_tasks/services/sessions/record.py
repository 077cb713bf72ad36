"""Take up what platforms report of their sessions; refuse, keep and explain what cannot be right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.errors import show
from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.services.ledger.cost_center import open_accounts
from usage_tasks.storage.directory.names import keep_external_ids
from usage_tasks.storage.pricing import prices
from usage_tasks.storage.sessions import merging, quarantine
from usage_tasks.storage.sessions.merging import Merged


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBatch:
    """The outcome of a batch: the merged reports, and the refused ones with the reason, in the batch's order."""

    merged: Merged
    rejections: Sequence[Rejection]


def record_reports(
    connection: Connection,
    reports: Sequence[SessionReport],
    malformed: Sequence[Rejection],
    *,
    raw: Sequence[object],
    limits: SpendingLimits,
    at: datetime,
    actor: Actor,
    arrived_at: datetime | None = None,
    opens_at: datetime | None = None,
    snapshot_source: str | None = None,
) -> RecordedBatch:
    """Merge the good reports of a batch and quarantine the others; an account's first session opens it.

    `malformed` are the rows of `raw` that could not even be read. With `snapshot_source` the batch is a snapshot of
    what ran there at `at`. Sending a batch again changes nothing. Unknown accounts open at `opens_at`, else at `at`. A
    report proves life until `arrived_at` at most, however far its sender's clock is ahead.
    """
    taken = take_up(
        connection,
        reports,
        limits=limits,
        at=opens_at or at,
        actor=actor,
        seen_at=None if snapshot_source is None else at,
        arrived_at=arrived_at,
    )
    rejections = sorted([*malformed, *taken.rejections], key=lambda each: each.index)
    refused = [(each, raw[each.index]) for each in rejections]
    quarantine.quarantine(connection, refused, at=at, actor=actor, snapshot_source=snapshot_source)
    return RecordedBatch(merged=taken.merged, rejections=rejections)


def take_up(
    connection: Connection,
    reports: Sequence[SessionReport],
    *,
    limits: SpendingLimits,
    at: datetime,
    actor: Actor,
    seen_at: datetime | None,
    arrived_at: datetime | None = None,
) -> RecordedBatch:
    """Merge the good reports of the readable ones. Return the reasons of the others, and store none of these.

    With `seen_at` they are of a snapshot of the sessions that ran then. With `arrived_at` no report proves life later
    than that.
    """
    known, unknown_class = _split_by_class(reports, prices.list_classes(connection))
    own, contradicting = _split_contradictions(known, {})
    if contradicting:  # a known session keeps its account, in any order of the batch
        own, contradicting = _split_contradictions(known, merging.list_foreign(connection, known))
    merged = merging.merge_reports(connection, own, seen_at=seen_at, arrived_at=arrived_at)
    # A report that changed a row is of the account that holds it: none is foreign where all did.
    all_changed = merged.inserted + merged.updated == len(own)
    foreign = [] if all_changed else _foreign(own, merging.list_foreign(connection, own))
    refused = {rejection.index for rejection in foreign}
    accounts = {report.attribution_id for report in own if report.index not in refused}
    open_accounts(connection, accounts, limits=limits, at=at, actor=actor)
    names = (name for report in own if report.names and report.index not in refused for name in report.names)
    keep_external_ids(connection, names)
    merged = Merged(inserted=merged.inserted, updated=merged.updated, unchanged=merged.unchanged - len(foreign))
    return RecordedBatch(merged=merged, rejections=[*unknown_class, *contradicting, *foreign])


def _split_by_class(
    reports: Sequence[SessionReport], classes: frozenset[str]
) -> tuple[list[SessionReport], list[Rejection]]:
    known = [report for report in reports if report.workspace_class in classes]
    allowed = ", ".join(sorted(classes)) or "there is none yet, run usage-tasks migrate"
    refused = [
        Rejection(
            index=report.index,
            field="workspace_class",
            reason=f"must be a class with a price: {allowed} (got {show(report.workspace_class)})",
        )
        for report in reports
        if report.workspace_class not in classes
    ]
    return known, refused


def _split_contradictions(
    reports: Sequence[SessionReport], held: Mapping[UUID, AttributionId]
) -> tuple[list[SessionReport], list[Rejection]]:
    """Split off contradictions: a session stays with its account; the first report of a new one names its account."""
    owners = dict(held)
    own, refused = [], []
    for report in reports:
        owner = owners.setdefault(report.instance_id, report.attribution_id)
        if owner == report.attribution_id:
            own.append(report)
        else:
            refused.append(_of_other_account(report, owner))
    return own, refused


def _foreign(reports: Sequence[SessionReport], owners: Mapping[UUID, AttributionId]) -> list[Rejection]:
    return [_of_other_account(report, owners[report.instance_id]) for report in reports if report.instance_id in owners]


def _of_other_account(report: SessionReport, owner: str) -> Rejection:
    reason = f"must be {owner}, the account of session {report.instance_id} (got {show(report.attribution_id)})"
    return Rejection(index=report.index, field="attribution_id", reason=reason)

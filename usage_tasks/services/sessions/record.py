"""Take up what platforms report of their sessions; refuse, keep and explain what cannot be right."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.errors import show
from usage_tasks.domain.prices import State, list_classes, price_key
from usage_tasks.domain.sessions import Rejection, SessionReport, choose_first
from usage_tasks.services.ledger.cost_center import open_accounts
from usage_tasks.services.sessions.fixed_facts import of_snapshot, settle
from usage_tasks.storage.directory.names import keep_external_ids
from usage_tasks.storage.pricing import prices
from usage_tasks.storage.sessions import fixed_facts, merging, quarantine, source_snapshots
from usage_tasks.storage.sessions.merging import Merged, sum_merged


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBatch:
    """The outcome of a batch: the merged reports, and the refused ones with the reason, in the batch's order.

    `taken_over` is the number of sessions that an earlier report took over, or of which it has the start.
    """

    merged: Merged
    rejections: Sequence[Rejection]
    taken_over: int = 0


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
    quarantine.quarantine(
        connection,
        refused,
        instances={report.index: report.instance_id for report in reports} if refused else {},
        at=at,
        actor=actor,
        snapshot_source=snapshot_source,
    )
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
    releasing: Set[str] = frozenset(),
) -> RecordedBatch:
    """Merge the good reports of the readable ones. Return the reasons of the others, and store none of these.

    What contradicts the start of its session is decided by the earliest report (docs/adr/0034).
    With `seen_at` they are of a snapshot of the sessions that ran then. With `arrived_at` no report proves life later
    than that. `releasing` are the digests of reports in quarantine that are among them.
    """
    good, rejections = _split_by_class(reports, prices.list_price_keys(connection))
    known = good if seen_at is None else of_snapshot(connection, good)
    leading, others = _split_contradictions(known)
    # Sources before sessions, as a snapshot locks them: also those of reports that contradict.
    source_snapshots.lock_sources(connection, {report.source for report in known if report.source is not None})
    # The leading reports name each session, so this locks them all, in one order, whether they are known or new.
    merged = merging.merge_reports(connection, leading, seen_at=seen_at, arrived_at=arrived_at)
    # A report that changed a row agrees with it: nothing stands against a batch of such reports.
    all_changed = merged.inserted + merged.updated == len(leading)
    contradicted = frozenset[UUID]() if all_changed else merging.list_contradicted(connection, leading)
    settled = [report for report in leading if report.instance_id not in contradicted]
    parts = [replace(merged, unchanged=merged.unchanged - (len(leading) - len(settled)))]
    taken_over = 0
    if disputed := [*others, *(report for report in leading if report.instance_id in contradicted)]:
        if seen_at is not None:  # Others may have changed these sessions before they were locked.
            indexes = {report.index for report in disputed}
            disputed = list(of_snapshot(connection, [report for report in good if report.index in indexes]))
        decided = settle(connection, disputed, at=at, actor=actor, releasing=releasing)
        fixed_facts.take_over(connection, decided.taking_over, seen_at=seen_at, arrived_at=arrived_at)
        fixed_facts.set_starts(connection, decided.starting)
        merging.merge_reports(connection, decided.starting, seen_at=seen_at, arrived_at=arrived_at)
        first = [*decided.taking_over, *decided.starting]
        parts.append(Merged(inserted=0, updated=len(first), unchanged=0))
        parts.append(merging.merge_reports(connection, decided.agreeing, seen_at=seen_at, arrived_at=arrived_at))
        merging.merge_reports(connection, decided.released, arrived_at=arrived_at)
        settled += [*first, *decided.agreeing, *decided.released]
        rejections += decided.rejections
        taken_over = len(first)
    fixed_facts.keep_changes(connection, [each for each in settled if each.present and each.segments])
    accounts = {report.attribution_id for report in settled}
    open_accounts(connection, accounts, limits=limits, at=at, actor=actor)
    keep_external_ids(connection, [name for report in settled if report.names for name in report.names])
    return RecordedBatch(merged=sum_merged(parts), rejections=rejections, taken_over=taken_over)


def _split_by_class(
    reports: Sequence[SessionReport], price_keys: frozenset[str]
) -> tuple[Sequence[SessionReport], list[Rejection]]:
    """Split off reports that need a price that does not exist."""
    classes = list_classes(price_keys)
    refused = {}
    for report in reports:
        if report.workspace_class not in classes:
            refused[report.index] = _without_price("workspace_class", report.workspace_class, None, classes)
        elif report.state is not None and price_key(report.workspace_class, report.state) not in price_keys:
            refused[report.index] = _without_price("state", report.workspace_class, report.state, classes)
        for number, each in enumerate(report.segments):
            if each.workspace_class not in classes or each.price_key not in price_keys:
                refused[report.index] = _without_price(f"segments.{number}", each.workspace_class, each.state, classes)
    if not refused:
        return reports, []
    return (
        [report for report in reports if report.index not in refused],
        [Rejection(index=index, field=field, reason=reason) for index, (field, reason) in refused.items()],
    )


def _without_price(field: str, workspace_class: str, state: State | None, classes: Set[str]) -> tuple[str, str]:
    if workspace_class not in classes:
        allowed = ", ".join(sorted(classes)) or "there is none yet, run usage-tasks migrate"
        return field, f"must be a class with a price: {allowed} (got {show(workspace_class)})"
    wanted = f"a state of class {workspace_class!r} with a price: add one, which may be 0"
    return field, f"must be {wanted} (got {show(str(state))})"


def _split_contradictions(
    reports: Sequence[SessionReport],
) -> tuple[Sequence[SessionReport], list[SessionReport]]:
    """Split off every report that contradicts its session's leading one.

    That is the first (`choose_first`) of those that name the same account as the batch's first report of the session.
    """
    seen: dict[UUID, SessionReport] = {}
    divided: dict[UUID, list[SessionReport]] = {}
    for report in reports:
        other = seen.setdefault(report.instance_id, report)
        if other is not report and not (other.attribution_id == report.attribution_id and report.agrees(other.fixed)):
            divided[report.instance_id] = []
    if not divided:
        return reports, []
    for report in reports:
        if report.instance_id in divided and report.attribution_id == seen[report.instance_id].attribution_id:
            divided[report.instance_id].append(report)
    leading = seen | {each: choose_first(of_session) or seen[each] for each, of_session in divided.items()}
    agreeing: list[SessionReport] = []
    others: list[SessionReport] = []
    for report in reports:
        first = leading[report.instance_id]
        agrees = report.attribution_id == first.attribution_id and report.agrees(first.fixed)
        (agreeing if agrees else others).append(report)
    return agreeing, others

"""Reports that contradict one another about the start of their session: the earliest one holds.

The others go to quarantine, and come back if a report that is earlier still agrees with them. So the order of arrival
is no matter. Source: docs/adr/0034-timelines.md.
"""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, groupby
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import show
from usage_tasks.domain.prices import State
from usage_tasks.domain.sessions import FixedFacts, Rejection, SessionReport, choose_first
from usage_tasks.domain.timelines import SEGMENTS_MAX, Segment, at_instant
from usage_tasks.services.sessions.refused import read_again
from usage_tasks.storage.sessions import fixed_facts, quarantine, source_snapshots
from usage_tasks.storage.sessions.fixed_facts import HeldSession, KnownTimeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What becomes of reports: some take their sessions over, some agree with them now, the others are refused.

    `starting` are reports with the start of sessions of which it was inferred. `released` waited in quarantine and
    agree with a session as it is taken over, or started.
    """

    taking_over: Sequence[SessionReport]
    starting: Sequence[SessionReport]
    agreeing: Sequence[SessionReport]
    rejections: Sequence[Rejection]
    released: Sequence[SessionReport]


def settle(
    connection: Connection, reports: Sequence[SessionReport], *, at: datetime, actor: Actor, releasing: Set[str]
) -> Decided:
    """Decide reports of known sessions, whose rows the caller has locked; `reports` are all that a batch has of them.

    A session keeps its account. The former reports of a session that is taken over go to quarantine. Reports in
    quarantine with the digests `releasing` are left to the caller.
    """
    known = fixed_facts.list_sessions(connection, {report.instance_id for report in reports})
    rejections = [
        _of_other_account(report, known[report.instance_id])
        for report in reports
        if report.attribution_id != known[report.instance_id].greatest.attribution_id
    ]
    own: dict[UUID, list[SessionReport]] = {}
    for report in reports:
        if report.attribution_id == known[report.instance_id].greatest.attribution_id:
            own.setdefault(report.instance_id, []).append(report)
    decided = ((each, choose_first(of_session, known[each].fixed)) for each, of_session in own.items())
    first = {instance_id: report for instance_id, report in decided if report is not None}
    agreeing = []
    for report in chain.from_iterable(own.values()):
        holds = first.get(report.instance_id, known[report.instance_id]).fixed
        if not report.agrees(holds):
            rejections.append(_contradicts(report, holds))
        elif report is not first.get(report.instance_id):
            agreeing.append(report)
    if not first:
        return Decided(taking_over=[], starting=[], agreeing=agreeing, rejections=rejections, released=[])
    staying = _keep_present(connection, {each: known[each] for each in first}, first)
    complete = {
        each: replace(report, segments=(*report.segments, *staying.get(each, ()))) for each, report in first.items()
    }
    starting = {each for each, report in first.items() if _was_inferred(known[each], report)}
    taken_back = {each: known[each] for each in first.keys() - starting}
    _withdraw(connection, taken_back, first, staying, at=at, actor=actor)
    return Decided(
        taking_over=[complete[each] for each in taken_back],
        starting=[complete[each] for each in starting],
        agreeing=agreeing,
        rejections=rejections,
        released=_release(connection, first, leaving=releasing, at=at),
    )


def _was_inferred(held: HeldSession, report: SessionReport) -> bool:
    """Return whether all that is known of a session is its present, which such a report does not contradict."""
    return held.fixed.inferred and held.fixed.user_id == report.user_id


def _keep_present(
    connection: Connection, sessions: Mapping[UUID, HeldSession], first: Mapping[UUID, SessionReport]
) -> Mapping[UUID, Sequence[Segment]]:
    """Remember what inferred starts come from; return the segments that hold whatever the start of a session is."""
    inferred = {
        each: Segment(
            begins_at=held.fixed.observed_at,
            observed_at=held.fixed.observed_at,
            workspace_class=held.fixed.workspace_class,
            state=State.RUNNING,
        )
        for each, held in sessions.items()
        if held.fixed.inferred
    }
    fixed_facts.keep_changes(
        connection, [replace(sessions[each].greatest, segments=(segment,)) for each, segment in inferred.items()]
    )
    users = {each: report.user_id for each, report in first.items()}
    return fixed_facts.list_changes(connection, users)


def _of_other_account(report: SessionReport, held: HeldSession) -> Rejection:
    owner = held.greatest.attribution_id
    reason = f"must be {owner}, the account of session {report.instance_id} (got {show(report.attribution_id)})"
    return Rejection(index=report.index, field="attribution_id", reason=reason)


def _contradicts(report: SessionReport, holds: FixedFacts) -> Rejection:
    if report.user_id != holds.user_id:
        field = "user_id"
        reason = (
            f"must be {holds.user_id}, the user of session {report.instance_id} by its earliest report "
            f"(got {show(str(report.user_id))}): report another user's time as a session of its own"
        )
    else:
        field = "workspace_class"
        change = json.dumps([{"from": "2026-01-31T12:00:00Z", "workspace_class": report.workspace_class}])
        reason = (
            f"must be {holds.workspace_class!r}, the class of session {report.instance_id} at its start by its "
            f"earliest report (got {show(report.workspace_class)}): report a change as segments, such as {change}"
        )
    return Rejection(index=report.index, field=field, reason=reason)


def _withdraw(
    connection: Connection,
    sessions: Mapping[UUID, HeldSession],
    first: Mapping[UUID, SessionReport],
    staying: Mapping[UUID, Sequence[Segment]],
    *,
    at: datetime,
    actor: Actor,
) -> None:
    """Put the former reports of sessions into quarantine, as reports that make the same of it, but for what stays."""
    refused: list[tuple[Rejection, object]] = []
    instances = {}
    for instance_id, held in sessions.items():
        why = _contradicts(held.greatest, first[instance_id].fixed)
        for raw in _as_reports(held, staying.get(instance_id, ())):
            instances[len(refused)] = instance_id
            refused.append((replace(why, index=len(refused)), raw))
    if refused:
        quarantine.quarantine(connection, refused, instances=instances, at=at, actor=actor)


def _as_reports(held: HeldSession, staying: Sequence[Segment]) -> Iterable[Mapping[str, object]]:
    """Write the greatest report, and others without the end.

    These are the earliest one, that of the source, and one or more for each observation of the timeline.
    """
    it = held.greatest
    facts: dict[str, object] = {
        "instance_id": str(it.instance_id),
        "attribution_id": it.attribution_id,
        "user_id": str(it.user_id),
        "workspace_id": it.workspace_id,
        "workspace_class": it.workspace_class,
    }
    facts |= _instants(created_at=it.created_at, started_at=it.started_at)
    yield facts | _instants(stopping_at=it.stopping_at, stopped_at=it.stopped_at, observed_at=it.observed_at)
    if held.fixed.observed_at < it.observed_at:
        yield facts | _instants(observed_at=held.fixed.observed_at)
    if it.source is not None and held.source_seen_at is not None:
        seen_at = max(held.fixed.observed_at, min(held.source_seen_at, it.observed_at))
        yield facts | {"source": it.source} | _instants(observed_at=seen_at)
    taken_back = [each for each in held.timeline if each not in staying]
    for observed_at, segments in groupby(taken_back, key=lambda each: each.observed_at):
        told = [_as_segment(each) for each in segments]
        for begin in range(0, len(told), SEGMENTS_MAX):
            part = told[begin : begin + SEGMENTS_MAX]
            yield facts | _instants(observed_at=observed_at) | {"segments": part}


def _instants(**moments: datetime | None) -> dict[str, object]:
    return {name: moment.isoformat() for name, moment in moments.items() if moment is not None}


def _as_segment(segment: Segment) -> Mapping[str, str]:
    return {
        "from": segment.begins_at.isoformat(),
        "workspace_class": segment.workspace_class,
        "state": segment.state,
    }


def _release(
    connection: Connection, first: Mapping[UUID, SessionReport], *, leaving: Set[str], at: datetime
) -> Sequence[SessionReport]:
    """Take out of quarantine what agrees with what is first of its session now; note the reason of what does not.

    Raises RetryableError if a snapshot of a source of them is being taken up: sessions are locked already, so nobody
    may wait for it, and it must not miss them (docs/adr/0034-timelines.md).
    """
    contradicting = quarantine.list_contradicting(connection, first)
    waiting = [each for each in contradicting if each.digest not in leaving]
    agreeing: list[SessionReport] = []
    still: dict[int, Rejection] = {}
    for reading in read_again(connection, waiting, at=at, accepted=True):
        report = reading.found
        if not isinstance(report, SessionReport) or report.instance_id not in first:
            continue
        earliest = first[report.instance_id]
        if report.attribution_id != earliest.attribution_id:
            continue
        if report.agrees(earliest.fixed):
            agreeing.append(report)
        else:
            still[report.index] = _contradicts(report, earliest.fixed)
    source_snapshots.lock_free_sources(connection, {each.source for each in agreeing if each.source is not None})
    removed = quarantine.remove(connection, [waiting[number] for number in {each.index for each in agreeing}])
    quarantine.note_reasons(connection, [(waiting[number], why) for number, why in still.items()], instances={})
    return [report for report in agreeing if waiting[report.index].digest in removed]


def of_snapshot(connection: Connection, reports: Sequence[SessionReport]) -> Sequence[SessionReport]:
    """Turn the present class and state of a snapshot's rows into segments where they are other than known.

    A row with segments of its own stays as it is. One of another user than known is compared with nothing: if it takes
    the session over, then nothing is known of it. So is one that is earlier than what an inferred start comes from.
    """
    held = fixed_facts.list_timelines(connection, reports)
    return [
        report if report.segments or _goes_on(report, held) else _changed(report, _known(report, held))
        for report in reports
    ]


def _known(report: SessionReport, held: Mapping[UUID, KnownTimeline]) -> KnownTimeline | None:
    known = held.get(report.instance_id)
    if known is None or known.fixed.user_id != report.user_id:
        return None
    # What is inferred from a later row is no measure for this one.
    return None if known.fixed.inferred and report.observed_at < known.fixed.observed_at else known


def _goes_on(report: SessionReport, held: Mapping[UUID, KnownTimeline]) -> bool:
    return report.instance_id not in held and report.state in (None, State.RUNNING)


def _changed(report: SessionReport, known: KnownTimeline | None) -> SessionReport:
    """Return a row with the class at the start, and with a segment if the present is another one than known."""
    at_start = report.workspace_class if known is None else known.fixed.workspace_class
    timeline = () if known is None else known.timeline
    present = (report.workspace_class, report.state or State.RUNNING)
    if at_instant(timeline, report.observed_at, class_at_start=at_start) == present:
        return replace(report, workspace_class=at_start)
    segment = Segment(
        begins_at=report.observed_at,
        observed_at=report.observed_at,
        workspace_class=report.workspace_class,
        state=present[1],
    )
    return replace(report, workspace_class=at_start, segments=(segment,))

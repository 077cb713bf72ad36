"""Reports that contradict one another about the start of their session: the earliest one holds.

The others go to quarantine, and come back if a report that is earlier still agrees with them. So the order of arrival
is no matter. Source: docs/adr/0034-timelines.md.
"""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import show
from usage_tasks.domain.prices import State
from usage_tasks.domain.sessions import FixedFacts, Rejection, SessionReport
from usage_tasks.domain.timelines import SEGMENTS_MAX, Segment, at_instant
from usage_tasks.services.sessions.refused import read_again
from usage_tasks.storage.sessions import fixed_facts, quarantine, source_snapshots
from usage_tasks.storage.sessions.fixed_facts import HeldSession, KnownTimeline
from usage_tasks.storage.sessions.quarantine import QuarantinedReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What becomes of reports: some take their sessions over, some agree with them now, the others are refused.

    `released` are reports that waited in quarantine and agree with a session as it is taken over.
    """

    taking_over: Sequence[SessionReport]
    agreeing: Sequence[SessionReport]
    rejections: Sequence[Rejection]
    released: Sequence[SessionReport]


def settle(
    connection: Connection, reports: Sequence[SessionReport], *, at: datetime, actor: Actor, releasing: Set[str]
) -> Decided:
    """Decide reports of known sessions, whose rows the caller has locked; `reports` are all that a batch has of them.

    A session keeps its account. What a session that is taken over had been told goes to quarantine. Reports in
    quarantine with the digests `releasing` are left to the caller.
    """
    known = fixed_facts.list_sessions(connection, {report.instance_id for report in reports})
    rejections = [
        _of_other_account(report, known[report.instance_id])
        for report in reports
        if report.attribution_id != known[report.instance_id].greatest.attribution_id
    ]
    earliest: dict[UUID, SessionReport] = {}
    own = [each for each in reports if each.attribution_id == known[each.instance_id].greatest.attribution_id]
    for report in own:
        earliest[report.instance_id] = min(
            earliest.get(report.instance_id, report), report, key=lambda each: each.fixed
        )
    taking_over = {
        instance_id: report
        for instance_id, report in earliest.items()
        if report.fixed < known[instance_id].fixed and not report.agrees(known[instance_id].fixed)
    }
    agreeing = []
    for report in own:
        holds = taking_over.get(report.instance_id, known[report.instance_id]).fixed
        if not report.agrees(holds):
            rejections.append(_contradicts(report, holds))
        elif report is not taking_over.get(report.instance_id):
            agreeing.append(report)
    if not taking_over:
        return Decided(taking_over=[], agreeing=agreeing, rejections=rejections, released=[])
    changes = fixed_facts.list_changes(connection, taking_over)
    taken_back = [(known[each], report.fixed, changes.get(each, ())) for each, report in taking_over.items()]
    _withdraw(connection, taken_back, at=at, actor=actor)
    waiting = _list_agreeing(connection, taking_over, leaving=releasing, at=at)
    removed = quarantine.remove(connection, [held for held, _ in waiting])
    return Decided(
        taking_over=[
            replace(report, segments=(*report.segments, *changes.get(each, ()))) for each, report in taking_over.items()
        ],
        agreeing=agreeing,
        rejections=rejections,
        released=[report for held, report in waiting if held.digest in removed],
    )


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
    sessions: Sequence[tuple[HeldSession, FixedFacts, Sequence[Segment]]],
    *,
    at: datetime,
    actor: Actor,
) -> None:
    """Put what sessions had been told into quarantine, as reports that make the same of it.

    Of each, what holds now, and the changes that stay with it.
    """
    refused: list[tuple[Rejection, object]] = []
    instances = {}
    for held, holds, staying in sessions:
        why = _contradicts(held.greatest, holds)
        for raw in _as_reports(held, staying):
            instances[len(refused)] = held.greatest.instance_id
            refused.append((replace(why, index=len(refused)), raw))
    if refused:
        quarantine.quarantine(connection, refused, instances=instances, at=at, actor=actor)


def _as_reports(held: HeldSession, staying: Sequence[Segment]) -> Iterable[Mapping[str, object]]:
    """Write the greatest report, and others that say nothing of the end.

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


def _list_agreeing(
    connection: Connection, taking_over: Mapping[UUID, SessionReport], *, leaving: Set[str], at: datetime
) -> Sequence[tuple[QuarantinedReport, SessionReport]]:
    """List the reports in quarantine that agree with what holds in these sessions now, as kept and as read.

    Sources are locked as far as nobody holds them: sessions are locked already. A snapshot that is just being taken up
    may miss such a session; the next one ends it at the same instant (docs/adr/0034-timelines.md).
    """
    contradicting = quarantine.list_contradicting(connection, taking_over)
    waiting = [each for each in contradicting if each.digest not in leaving]
    agreeing = [
        (waiting[report.index], report)
        for report in (each.found for each in read_again(connection, waiting, at=at, accepted=True))
        if isinstance(report, SessionReport)
        and (first := taking_over.get(report.instance_id)) is not None
        and report.attribution_id == first.attribution_id
        and report.agrees(first.fixed)
    ]
    source_snapshots.lock_free_sources(connection, {each.source for _, each in agreeing if each.source is not None})
    return agreeing


def of_snapshot(connection: Connection, reports: Sequence[SessionReport]) -> Sequence[SessionReport]:
    """Turn the present class and state of a snapshot's rows into segments where they are other than known.

    A row with segments of its own stays as it is. One of another user than known is compared with nothing: if it takes
    the session over, then nothing is known of it.
    """
    held = fixed_facts.list_timelines(connection, reports)
    return [
        report if report.segments or _goes_on(report, held) else _changed(report, _known(report, held))
        for report in reports
    ]


def _known(report: SessionReport, held: Mapping[UUID, KnownTimeline]) -> KnownTimeline | None:
    known = held.get(report.instance_id)
    return known if known is not None and known.user_id == report.user_id else None


def _goes_on(report: SessionReport, held: Mapping[UUID, KnownTimeline]) -> bool:
    return report.instance_id not in held and report.state in (None, State.RUNNING)


def _changed(report: SessionReport, known: KnownTimeline | None) -> SessionReport:
    """Return a row with the class at the start, and with a segment if the present is another one than known."""
    at_start = report.workspace_class if known is None else known.workspace_class
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

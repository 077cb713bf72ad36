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

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.errors import show
from usage_tasks.domain.sessions import FixedFacts, Rejection, SessionReport
from usage_tasks.domain.states import State
from usage_tasks.domain.timelines import SEGMENTS_MAX, Segment, at_instant
from usage_tasks.services.sessions.refused import read_again
from usage_tasks.storage.sessions import fixed_facts, quarantine
from usage_tasks.storage.sessions.fixed_facts import HeldSession, KnownTimeline
from usage_tasks.storage.sessions.quarantine import QuarantinedReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Reports that agree with their sessions now, others that were taken out of quarantine, and refusals.

    `taken_over` is the number of sessions that an earlier report has taken over.
    """

    agreeing: Sequence[SessionReport]
    released: Sequence[SessionReport]
    rejections: Sequence[Rejection]
    taken_over: int


def settle(
    connection: Connection,
    reports: Sequence[SessionReport],
    *,
    at: datetime,
    arrived_at: datetime | None,
    actor: Actor,
    releasing: Set[str],
) -> Settled:
    """Decide sessions one by one; `reports` are all that a batch has of them.

    A session keeps its account; the first report of a new one names it. Reports in quarantine with the digests
    `releasing` are left to the caller.
    """
    of_session: dict[UUID, list[SessionReport]] = {}
    for report in reports:
        of_session.setdefault(report.instance_id, []).append(report)
    known = fixed_facts.lock_sessions(connection, of_session)
    agreeing: list[SessionReport] = []
    released: list[SessionReport] = []
    rejections: list[Rejection] = []
    taken_over = 0
    for instance_id, told in sorted(of_session.items()):
        held = known.get(instance_id)
        account = told[0].attribution_id if held is None else held.greatest.attribution_id
        rejections.extend(_of_other_account(each, account) for each in told if each.attribution_id != account)
        group = [each for each in told if each.attribution_id == account]
        if not group:
            continue
        earliest = min(group, key=lambda each: each.fixed)
        holds = earliest.fixed if held is None else held.fixed
        if held is not None and earliest.fixed < holds and not earliest.agrees(holds):
            holds = earliest.fixed
            _withdraw(connection, held, holds, at=at, actor=actor)
            fixed_facts.take_over(connection, earliest, arrived_at=arrived_at)
            taken_over += 1
            released += [
                report
                for waiting, report in _list_agreeing(connection, instance_id, account, holds, at=at)
                if waiting.digest not in releasing and quarantine.remove(connection, [waiting])
            ]
        for report in group:
            if report.agrees(holds):
                agreeing.append(report)
            else:
                rejections.append(_contradicts(report, holds))
    return Settled(agreeing=agreeing, released=released, rejections=rejections, taken_over=taken_over)


def _of_other_account(report: SessionReport, owner: str) -> Rejection:
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


def _withdraw(connection: Connection, held: HeldSession, holds: FixedFacts, *, at: datetime, actor: Actor) -> None:
    """Put what a session's reports had said into quarantine, as reports that make the same of it."""
    why = _contradicts(held.greatest, holds)
    refused = [(why, raw) for raw in _as_reports(held)]
    instances = {why.index: held.greatest.instance_id}
    quarantine.quarantine(connection, refused, instances=instances, at=at, actor=actor)


def _as_reports(held: HeldSession) -> Iterable[Mapping[str, object]]:
    """Write the greatest report, and one or more for each observation of the timeline, which say nothing of the end."""
    it = held.greatest
    facts: dict[str, object] = {
        "instance_id": str(it.instance_id),
        "attribution_id": it.attribution_id,
        "user_id": str(it.user_id),
        "workspace_id": it.workspace_id,
        "workspace_class": it.workspace_class,
    }
    facts |= {} if it.source is None else {"source": it.source}
    facts |= _instants(created_at=it.created_at, started_at=it.started_at)
    yield facts | _instants(stopping_at=it.stopping_at, stopped_at=it.stopped_at, observed_at=it.observed_at)
    if held.fixed.observed_at < it.observed_at:
        yield facts | _instants(observed_at=held.fixed.observed_at)
    for observed_at, segments in groupby(held.timeline, key=lambda each: each.observed_at):
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
    connection: Connection, instance_id: UUID, account: AttributionId, holds: FixedFacts, *, at: datetime
) -> Iterable[tuple[QuarantinedReport, SessionReport]]:
    """Yield those of a session's reports in quarantine that agree with what holds now, as kept and as read."""
    contradicting = quarantine.list_contradicting(connection, instance_id)
    for held, report in zip(contradicting, read_again(connection, contradicting, at=at, accepted=True), strict=True):
        if isinstance(report, SessionReport) and report.attribution_id == account and report.agrees(holds):
            yield held, report


def of_snapshot(connection: Connection, reports: Sequence[SessionReport]) -> Sequence[SessionReport]:
    """Turn the present class and state of a snapshot's rows into segments where they are other than known.

    A row with segments of its own stays as it is.
    """
    held = fixed_facts.list_timelines(connection, reports)
    return [
        report if report.segments or _goes_on(report, held) else _changed(report, held.get(report.instance_id))
        for report in reports
    ]


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

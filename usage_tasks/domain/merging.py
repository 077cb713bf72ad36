"""The facts of a session: the greatest of its reports, in a total order, so that the order of arrival is no matter.

Production merges batches in one statement, storage/sessions/merging.py. The functions here are its oracle, which
production never calls: they state the rule for one session's facts, proof of life and cap, and
tests/sessions/test_merging_twin.py holds the two equal. Source and snapshot of a session merge in SQL only.
Source: docs/adr/0006-merging-reports.md, docs/adr/0008-proof-of-life.md, docs/adr/0034-timelines.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from usage_tasks.domain.sessions import CapReason, FixedFacts, SessionReport
from usage_tasks.domain.timelines import Segment, join
from usage_tasks.domain.zombies import Cap

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSession:
    """A session: its greatest report, its latest proof of life, its cap, its fixed facts and its timeline."""

    facts: SessionReport
    last_seen_at: datetime | None
    fixed: FixedFacts
    cap: Cap | None = None
    timeline: tuple[Segment, ...] = ()


def rank(report: SessionReport) -> tuple[object, ...]:
    """Return the place of a report in the total order: the greater of two holds.

    A stop outranks the beginning of one, that outranks running; then the later observation holds. The rest only breaks
    ties. Texts compare by code points here, in the database by its collation.
    """
    finality = (report.stopped_at is not None, report.stopping_at is not None)
    optional = (each or _NEVER for each in (report.stopped_at, report.stopping_at, report.created_at))
    rest = (report.started_at, report.workspace_class, report.user_id, report.workspace_id)
    return (*finality, report.observed_at, *optional, *rest)


def merge(
    held: KnownSession | None,
    reports: Sequence[SessionReport],
    *,
    seen_at: datetime | None = None,
    arrived_at: datetime | None = None,
) -> KnownSession:
    """Return a session after a batch of its reports, one at least; `seen_at` is the instant of their snapshot.

    The reports of a batch agree about the class at the start and the user. A batch that contradicts what holds of the
    session changes nothing; services/sessions/fixed_facts.py decides which holds.
    A report without a stop proves life at its observation, but not later than it arrived, and at the snapshot that
    lists it: a sender's clock that is ahead keeps no session alive. A later proof of life
    lifts the heartbeat's cap, a reported end every cap. A session that has stopped changes by a greater report only.
    """
    greatest = max(reports, key=rank)
    signs = [min(each.observed_at, arrived_at or each.observed_at) for each in reports if each.stopped_at is None]
    last_seen_at = _latest(*signs, seen_at if signs else None)
    told = [segment for each in reports for segment in each.segments]
    if held is None:
        return KnownSession(facts=greatest, last_seen_at=last_seen_at, fixed=_earliest(reports), timeline=join(told))
    if not greatest.agrees(held.fixed):
        return held
    greater = rank(greatest) > rank(held.facts)
    newer = last_seen_at is not None and held.last_seen_at is not None and last_seen_at > held.last_seen_at
    timeline = join([*held.timeline, *told])
    fixed = _earliest(reports, held.fixed)
    changed = greater or fixed != held.fixed or timeline != held.timeline
    if not changed and (held.facts.stopped_at is not None or not newer):
        return held
    facts = greatest if greater else held.facts
    ended = facts.stopping_at is not None or facts.stopped_at is not None
    lifted = newer and held.cap is not None and held.cap.reason is CapReason.HEARTBEAT
    return KnownSession(
        facts=facts,
        last_seen_at=_latest(held.last_seen_at, last_seen_at),
        fixed=fixed,
        cap=None if ended or lifted else held.cap,
        timeline=timeline,
    )


def _earliest(reports: Sequence[SessionReport], *held: FixedFacts) -> FixedFacts:
    """Join fixed facts of one class and user."""
    facts = [*(each.fixed for each in reports), *held]
    observed_at, reported_at = min(each.observed_at for each in facts), min(each.reported_at for each in facts)
    return FixedFacts(observed_at, reported_at, facts[0].workspace_class, facts[0].user_id)


def _latest(*moments: datetime | None) -> datetime | None:
    return max((each for each in moments if each is not None), default=None)

"""The oracle of timelines: what a session is and costs, from all of its reports, in fractions and by brute force.

It shares no code with the package, merges nothing, prunes nothing and keeps no state: each answer is computed anew from
all reports, by the words of docs/adr/0034-timelines.md, 0001, 0006, 0009 and 0014.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

RUNNING = "running"
MICROSECOND = timedelta(microseconds=1)
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class Value(NamedTuple):
    """A class and a state: the value of a timeline at an instant, and the key of a price."""

    workspace_class: str
    state: str

    @property
    def price_key(self) -> str:
        """The key in `price_version`."""
        return self.workspace_class if self.state == RUNNING else f"{self.workspace_class}:{self.state}"


class Segment(NamedTuple):
    """A segment of a report."""

    observed_at: datetime
    begins_at: datetime
    value: Value


class Claim(NamedTuple):
    """The class at the start and the user that a report claims. The least claim is the session's."""

    observed_at: datetime
    workspace_class: str
    user_id: str


@dataclass(frozen=True)
class Version:
    """A price version of a key, in credits per minute, cents and seconds."""

    effective_from: datetime
    credits_per_minute: Decimal
    minimum_cents: int = 0
    step_seconds: int = 1


class Span(NamedTuple):
    """Charged seconds of a class and state under one version."""

    seconds: int
    value: Value
    version: Version


@dataclass(frozen=True)
class Share:
    """Credit cents and seconds of a part of a session."""

    credit_cents: int
    seconds: int


Prices = Mapping[str, Sequence[Version]]
"""Of each price key its versions, in any order."""


class Told:
    """One report on the wire, read.

    A row of a snapshot says the present: in segments where it is another one than was `known`, or as the class from
    which the start is inferred, if nothing was known of it.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = report
        self.started_at, self.observed_at = _instant(report["started_at"]), _instant(report["observed_at"])
        self.stopping_at, self.stopped_at = _maybe(report.get("stopping_at")), _maybe(report.get("stopped_at"))
        self.workspace_id = str(report["workspace_id"])
        self.present = report.get("present")
        self.claim = Claim(self.observed_at, str(report["workspace_class"]), str(report["user_id"]))
        self.segments = [
            Segment(
                self.observed_at,
                _instant(each["from"]),
                Value(each["workspace_class"], each.get("state", RUNNING)),
            )
            for each in report.get("segments") or ()
        ]

    @property
    def needs(self) -> set[str]:
        """The price keys without which a report is refused: of each class as it runs, and of each segment."""
        named = {segment.value.workspace_class for segment in self.segments} | {self.claim.workspace_class}
        return named | {segment.value.price_key for segment in self.segments}

    def agrees(self, claim: Claim) -> bool:
        """True if it has the class at the start and the user of a claim."""
        return self.claim[1:] == claim[1:]

    @property
    def rank(self) -> tuple[object, ...]:
        """The place in the total order of ADR 0006: stopped over stopping over running, then the later observation."""
        finality = (self.stopped_at is not None, self.stopping_at is not None)
        ends = (self.stopped_at or LONG_AGO, self.stopping_at or LONG_AGO)
        rest = (self.started_at, *self.claim[1:], self.workspace_id)
        return (*finality, self.observed_at, *ends, *rest)


def holding(segments: Iterable[Segment], instant: datetime) -> Segment | None:
    """Return the segment that holds at an instant, by the rule's words, or None before the first."""
    begun = [each for each in segments if each.begins_at <= instant]
    if not begun:
        return None
    latest = max(each.observed_at for each in begun)
    observed_last = [each for each in begun if each.observed_at == latest]
    began_last = max(each.begins_at for each in observed_last)
    return max((each for each in observed_last if each.begins_at == began_last), key=lambda each: each.value)


def living(segments: Iterable[Segment]) -> frozenset[Segment]:
    """Return the segments that hold at some instant: then they hold at their own begin."""
    every = list(segments)
    return frozenset(each for each in every if holding(every, each.begins_at) == each)


class Session:
    """A session by all of its reports of one account, under price versions. At least one report must be priced."""

    def __init__(self, reports: Iterable[Mapping[str, Any]], prices: Prices) -> None:
        self.prices = prices
        told = [Told(report) for report in reports]
        priced = [each for each in told if each.needs <= prices.keys()]
        user_id = min(each.claim for each in priced).user_id
        same = [each for each in priced if each.claim.user_id == user_id]
        said = [each for each in same if not each.present]
        self.holder = min(said or same, key=lambda each: each.claim)
        self.is_inferred = not said
        self.accepted = [each for each in same if each.present or each.agrees(self.holder.claim)]
        self.claim = self.holder.claim._replace(observed_at=min(each.observed_at for each in self.accepted))
        self.refused = [each for each in told if each not in self.accepted]

    @cached_property
    def segments(self) -> list[Segment]:
        """The segments of every accepted report, dead ones too, and the present of rows of snapshots."""
        unknown = sorted((each for each in self.accepted if each.present == "unknown"), key=lambda each: each.claim)
        # The earliest of them is the start's class, until a report says another one.
        told = [each for each in unknown[:1] if each.claim.workspace_class != self.claim.workspace_class]
        inferred = [
            Segment(each.observed_at, each.observed_at, Value(each.claim.workspace_class, RUNNING))
            for each in [*told, *unknown[1:]]
        ]
        return [*inferred, *(segment for each in self.accepted for segment in each.segments)]

    @cached_property
    def facts(self) -> Told:
        """The greatest accepted report."""
        return max(self.accepted, key=lambda each: each.rank)

    @property
    def started_at(self) -> datetime:
        """The start."""
        return self.facts.started_at

    @property
    def ended_at(self) -> datetime | None:
        """The end of what is billed: stopping, else stopped, else none yet."""
        return self.facts.stopping_at or self.facts.stopped_at

    def value_at(self, instant: datetime) -> Value:
        """The class and state at an instant."""
        held = holding(self.segments, instant)
        return Value(self.claim.workspace_class, RUNNING) if held is None else held.value

    def version_at(self, instant: datetime) -> Version:
        """The version in force at an instant for the class and state of that instant."""
        versions = self.prices[self.value_at(instant).price_key]
        in_force = [each for each in versions if each.effective_from <= instant]
        return max(in_force, key=lambda each: each.effective_from)

    @property
    def edges(self) -> set[datetime]:
        """Every instant at which the class, the state or a price may change."""
        changes = {version.effective_from for versions in self.prices.values() for version in versions}
        return changes | {segment.begins_at for segment in self.segments}

    def ran_until(self, instant: datetime) -> datetime:
        """The end of what had run by an instant; the start if nothing had."""
        return max(self.started_at, instant if self.ended_at is None else min(instant, self.ended_at))

    def seconds(self, at: datetime) -> int:
        """Whole seconds of runtime by an instant, to the nearest, half up."""
        return _elapsed(self.started_at, self.ran_until(at))

    def rule(self) -> Version:
        """The version of the minimum and the step: in force at the start for the class and state of the start."""
        return self.version_at(self.started_at)

    def spans(self, at: datetime) -> list[Span]:
        """What had run by an instant, cut wherever the class, the state or a price may change.

        Each cut counts as the time elapsed since the start, rounded to the second, then up to a whole step.
        """
        step = self.rule().step_seconds

        def charged(until: datetime) -> int:
            return -(-_elapsed(self.started_at, until) // step) * step

        end = self.ran_until(at)
        cuts = [self.started_at, *sorted(each for each in self.edges if self.started_at < each < end), end]
        return [
            Span(charged(until) - charged(begin), self.value_at(begin), self.version_at(begin))
            for begin, until in pairwise(cuts)
        ]

    def exact(self, at: datetime) -> Fraction:
        """Seconds x credits per minute by an instant, summed exactly."""
        return sum((each.seconds * Fraction(each.version.credits_per_minute) for each in self.spans(at)), Fraction(0))

    def metered_cents(self, at: datetime) -> int:
        """The sum in credit cents, rounded once, half up."""
        return math.floor(self.exact(at) * 100 / 60 + Fraction(1, 2))

    def cents(self, at: datetime) -> int:
        """The charge by an instant: at least the minimum as soon as a second ran."""
        return max(self.metered_cents(at), self.rule().minimum_cents) if self.seconds(at) else 0

    def burn(self, at: datetime) -> Fraction:
        """Credit cents an hour of what runs at an instant."""
        runs = self.started_at <= at and (self.ended_at is None or at < self.ended_at)
        return runs * Fraction(self.version_at(at).credits_per_minute) * 100 * 60

    def shares(self, start: datetime, end: datetime, *, at: datetime) -> dict[tuple[date, Value], Share]:
        """The usage in [start, end) as of an instant, by day of UTC, class and state.

        The range is cut at midnights and at the edges of segments. A part's share is what the session had accrued by
        its end less what it had by its begin. A session has a share, of 0 perhaps, in each group in which it ran; one
        of no length where it started.
        """
        if self.started_at > at:
            return {}
        midnights = (_midnight(start) + timedelta(days=number) for number in range((end - start).days + 2))
        cuts = {each for each in {*midnights, *self.edges} if start < each < end}
        last = self.ran_until(at)
        cells: dict[tuple[date, Value], list[Share]] = defaultdict(list)
        for begin, until in pairwise([start, *sorted(cuts), end]):
            if self.started_at < until and (last > begin or self.started_at >= begin):
                key = (begin.astimezone(UTC).date(), self.value_at(max(begin, self.started_at)))
                upper, lower = min(at, until), min(at, begin)
                cents, seconds = self.cents(upper) - self.cents(lower), self.seconds(upper) - self.seconds(lower)
                cells[key].append(Share(cents, seconds))
        return {key: add_up(parts) for key, parts in cells.items()}


def add_up(shares: Iterable[Share]) -> Share:
    """Return the sum of shares."""
    parts = list(shares)
    return Share(sum(each.credit_cents for each in parts), sum(each.seconds for each in parts))


def _elapsed(start: datetime, until: datetime) -> int:
    microseconds = (until - start) // MICROSECOND
    return max(0, (microseconds + 500_000) // 1_000_000)


def _midnight(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _instant(text: str | datetime) -> datetime:
    return (text if isinstance(text, datetime) else datetime.fromisoformat(text)).astimezone(UTC)


def _maybe(text: str | datetime | None) -> datetime | None:
    return None if text is None else _instant(text)

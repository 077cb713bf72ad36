"""A session's timeline: which class and state it had in each instant. Source: docs/adr/0034-timelines.md.

Stored timelines are joined in SQL, storage/pricing/timelines_sql.py; tests/sessions/timelines hold the two equal.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Final

from usage_tasks.domain.prices import ALL_TIME, State, price_key
from usage_tasks.domain.rating import PriceVersion

SEGMENTS_MAX: Final = 1_000
"""How many segments one report may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A class and a state from an instant on, as seen at `observed_at`."""

    begins_at: datetime
    observed_at: datetime
    workspace_class: str
    state: State

    @property
    def price_key(self) -> str:
        """The name of its price."""
        return price_key(self.workspace_class, self.state)


def join(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Return the living ones of any segments of a session, by their begin: its timeline.

    A segment is dead if another one was observed later and begins no later; of equal begin and observation the greatest
    by class and state lives. Associative, commutative, idempotent.
    """
    living: list[Segment] = []
    in_order = sorted(segments, key=lambda each: (each.begins_at, each.observed_at, each.workspace_class, each.state))
    for _, same_begin in groupby(in_order, key=lambda each: each.begins_at):
        *_, greatest = same_begin
        if not living or greatest.observed_at >= living[-1].observed_at:
            living.append(greatest)
    return tuple(living)


def at_instant(timeline: Sequence[Segment], at: datetime, *, class_at_start: str) -> tuple[str, State]:
    """Return the class and the state in an instant."""
    begun = bisect_right(timeline, at, key=lambda each: each.begins_at)
    if not begun:
        return class_at_start, State.RUNNING
    return timeline[begun - 1].workspace_class, timeline[begun - 1].state


def prices_along(
    timeline: Sequence[Segment], histories: Mapping[str, Sequence[PriceVersion]], *, class_at_start: str
) -> list[PriceVersion]:
    """Join the price versions of a session's segments to one list in rising order, for `rating.rate`.

    `histories` has the versions of each price key, each in rising order. A version that holds in a segment is in the
    list from the segment's begin on, if it took effect before. Raises KeyError for a key without a history.
    """
    begins = [(ALL_TIME, class_at_start), *((each.begins_at, each.price_key) for each in timeline)]
    ends = [begin for begin, _ in begins[1:]]
    return [
        replace(version, effective_from=begin)
        for (begin_of_key, key), end_of_key in zip(begins, [*ends, None], strict=True)
        for begin, end, version in _in_force(histories[key], begin_of_key, end_of_key)
        if end is None or begin < end
    ]


def _in_force(
    versions: Sequence[PriceVersion], begin: datetime, end: datetime | None
) -> Iterator[tuple[datetime, datetime | None, PriceVersion]]:
    """Cut the versions of one price to a part of time."""
    for version, later in zip(versions, [*versions[1:], None], strict=True):
        ends = [each for each in (end, None if later is None else later.effective_from) if each is not None]
        yield max(begin, version.effective_from), min(ends, default=None), version

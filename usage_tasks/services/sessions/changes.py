"""Rows of one change of a session, as files have them: a class and a state `from` an instant on.

Each becomes a report with one segment, or is folded into the row of its session. Source: docs/adr/0034-timelines.md.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Namespace
from usage_tasks.domain.timelines import Segment, join
from usage_tasks.storage.pricing.timelines_sql import encode
from usage_tasks.storage.rows import as_json
from usage_tasks.storage.sessions import fixed_facts
from usage_tasks.storage.sessions.bulk_copy import OBSERVED, STOPPED, STOPPING, Along, PlainRow
from usage_tasks.wire.session_reports import find_instance_id, find_segment

_OF_SEGMENT: Final = ("from", "workspace_class", "state")


def as_reports(
    connection: Connection, rows: Sequence[object], namespace: Namespace
) -> tuple[Sequence[object], Set[int]]:
    """Turn the changes among rows into reports; return the places of these too: they have the present only.

    What a change leaves out are the facts that are known of its session, else those of the first row of it without
    `from`. A change of a session without facts stays as it is.
    """
    places = {place for place, row in enumerate(rows) if is_change(row)}
    if not places:
        return rows, places
    sessions = [find_instance_id(row, namespace=namespace) for row in rows]
    facts: dict[UUID | None, Mapping[str, object]] = {}
    for session, row in zip(reversed(sessions), reversed(rows), strict=True):
        if isinstance(row, Mapping) and not is_change(row):
            facts[session] = {name: row[name] for name in fixed_facts.FACTS if name in row}
    facts.update(fixed_facts.list_facts(connection, {each for place in places if (each := sessions[place])}).items())
    return [_as_report(row, facts.get(each)) for each, row in zip(sessions, rows, strict=True)], places


class OddRow(NamedTuple):
    """A row that must be read as a task would read it, and its session if that is known."""

    row: object
    instance_id: UUID | None


class Folded(NamedTuple):
    """The lines of some changes, and by session what they add to a row of it."""

    lines: Set[int]
    along: Mapping[str, Along]


def fold(odd: Mapping[int, OddRow], plain: Iterable[PlainRow], price_keys: Set[str], *, at: datetime) -> Folded:
    """Fold changes into the plain rows of their sessions, as merging the reports of both would.

    Left out are sessions with a change that is no mere segment or has no price, and sessions of which a change is
    observed later than the row that would be the greatest report.
    """
    changes: dict[str, dict[int, Segment | None]] = defaultdict(dict)
    for line, each in odd.items():
        if each.instance_id is not None:
            changes[str(each.instance_id)][line] = find_segment(each.row, at=at)
    lines: set[int] = set()
    along = {}
    for row in plain:
        found = changes.get(row[0])
        segments = [] if found is None else [each for each in found.values() if each and _has_price(each, price_keys)]
        if found is None or len(segments) < len(found):
            continue
        observed = [each.observed_at for each in segments]
        own = datetime.fromisoformat(row[OBSERVED]) if row[OBSERVED] else at
        if row[STOPPED] or row[STOPPING] or max(observed) <= own:
            lines |= found.keys()
            along[row[0]] = Along(
                timeline=as_json(encode(join(segments))),
                last_seen_at=max(observed) if row[STOPPED] else max(own, *observed),
                first_observed_at=min(observed) if min(observed) < own else None,
                start_reported_at=own if min(observed) < own else None,
                changes=frozenset(segments),
            )
    return Folded(lines, along)


def _has_price(segment: Segment, price_keys: Set[str]) -> bool:
    return price_keys >= {segment.workspace_class, segment.price_key}


def is_change(row: object) -> bool:
    """Return whether a row is one change of a session."""
    return isinstance(row, Mapping) and "from" in row


def _as_report(row: object, facts: Mapping[str, object] | None) -> object:
    if facts is None or not isinstance(row, Mapping) or not is_change(row):
        return row
    segment = {name: row[name] for name in _OF_SEGMENT if name in row}
    return {**facts, **{name: value for name, value in row.items() if name not in _OF_SEGMENT}, "segments": [segment]}

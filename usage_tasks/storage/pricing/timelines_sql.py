"""Timelines in SQL: how they are stored, joined and taken apart. The rules of domain/timelines.py.

A timeline is a JSON array of objects, (from, observed_at, workspace_class, state) of each living segment in the order
of `from`, instants as UTC text with six digits; null for a session of one segment. Source: docs/adr/0034-timelines.md.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from usage_tasks.domain.prices import State
from usage_tasks.domain.timelines import Segment

MARK: Final = ":timeline"
"""Ends the class of an open session with a timeline: a name without a price, so that older code leaves it alone."""


def encode(timeline: Iterable[Segment]) -> list[Mapping[str, str]]:
    """Return a timeline in its stored form."""
    return [
        {
            "from": _text(each.begins_at),
            "observed_at": _text(each.observed_at),
            "workspace_class": each.workspace_class,
            "state": each.state,
        }
        for each in timeline
    ]


def decode(stored: Iterable[Mapping[str, str]] | None) -> tuple[Segment, ...]:
    """Read a stored timeline; null is an empty one."""
    return tuple(
        Segment(
            begins_at=datetime.fromisoformat(each["from"]),
            observed_at=datetime.fromisoformat(each["observed_at"]),
            workspace_class=each["workspace_class"],
            state=State(each["state"]),
        )
        for each in stored or ()
    )


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def joined(one: str, other: str) -> str:
    """Compose the living segments of two timelines, each of which may be null."""
    return f"""CASE
        WHEN {one} IS NULL OR {one} = {other} THEN {other} WHEN {other} IS NULL THEN {one}
        ELSE (
            SELECT jsonb_agg(jsonb_build_object('from', g."from", 'observed_at', g.observed_at,
                       'workspace_class', g.workspace_class, 'state', g.state) ORDER BY g."from" COLLATE "C")
            FROM (
                SELECT DISTINCT ON (b."from" COLLATE "C") b.* FROM (
                    -- The frame has every segment that begins no later.
                    SELECT t.*, max(t.observed_at COLLATE "C") OVER (ORDER BY t."from" COLLATE "C") AS latest
                    FROM jsonb_to_recordset({one} || {other})
                        AS t("from" text, observed_at text, workspace_class text, state text)
                ) AS b
                WHERE b.observed_at COLLATE "C" >= b.latest
                ORDER BY b."from" COLLATE "C", b.workspace_class COLLATE "C" DESC, b.state COLLATE "C" DESC
            ) AS g
        )
    END"""


def _key(segment: str) -> str:
    return f"""{segment}.workspace_class
        || CASE WHEN {segment}.state = '{State.RUNNING}' THEN '' ELSE ':' || {segment}.state END"""


def _segments(session: str) -> str:
    return f"""jsonb_to_recordset({session}.timeline) AS g("from" timestamptz, workspace_class text, state text)"""


def pieces(session: str) -> str:
    """Compose a query of a session's parts, (begins_at, ends_at, workspace_class, state, price_key).

    The first part begins before all time, in the class at the start; the last one has no end.
    """
    return f"""
        SELECT t.begins_at, lead(t.begins_at) OVER (ORDER BY t.begins_at) AS ends_at, t.workspace_class, t.state,
               {_key("t")} AS price_key
        FROM (
            SELECT '-infinity'::timestamptz AS begins_at, {session}.workspace_class, '{State.RUNNING}' AS state
            UNION ALL
            SELECT g.* FROM {_segments(session)}
        ) AS t
    """


def priced_parts(session: str) -> str:
    """Compose a query of the columns (priced_from, price_keys) that a session has while it is open: one row.

    Null if it has no timeline. A part that ended by its start is left out; the first one begins before all time.
    """
    return f"""
        SELECT array_agg(p.begins_at ORDER BY p.begins_at) AS priced_from,
               array_agg(p.price_key ORDER BY p.begins_at) AS price_keys
        FROM ({pieces(session)}) AS p
        WHERE {session}.timeline IS NOT NULL AND COALESCE(p.ends_at, 'infinity') > {session}.started_at
    """


def at_instant(session: str, instant: str, class_at_start: str | None = None) -> str:
    """Compose the price key of a session in an instant."""
    first = class_at_start or f"{session}.workspace_class"
    return f"""CASE WHEN {session}.timeline IS NULL THEN {session}.workspace_class ELSE COALESCE((
            SELECT {_key("g")} FROM {_segments(session)} WHERE g."from" <= {instant} ORDER BY g."from" DESC LIMIT 1
        ), {first}) END"""


def class_of_open(session: str) -> str:
    """Compose the class at the start of a row of open_session."""
    return f"""CASE WHEN {session}.timeline IS NULL THEN {session}.workspace_class
        ELSE left({session}.workspace_class, -{len(MARK)}) END"""

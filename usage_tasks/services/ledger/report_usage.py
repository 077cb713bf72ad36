"""Report usage in a range, split exactly, by groups, page by page."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, Actor, parse_uuid
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.services.directory import access
from usage_tasks.storage.ledger.usage_report import Group, Scope, UsageRow, UsageTotals, sum_usage

RANGE_MAX: Final = timedelta(days=366)
"""A calendar year."""

LIMIT_DEFAULT: Final = 1_000
LIMIT_MAX: Final = 10_000

Key = date | str | UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a report goes on: its instant, and the last row's keys by what it is grouped by."""

    at: datetime
    after: Mapping[Group, Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """One page of a report, and what the whole range holds. `next_page_token` is None on the last page."""

    start: datetime
    end: datetime
    at: datetime
    group_by: Sequence[Group]
    rows: Sequence[Mapping[str, object]]
    totals: UsageTotals
    next_page_token: str | None


def report_usage(
    connection: Connection,
    account: Account | None,
    *,
    actor: Actor,
    start: datetime,
    end: datetime,
    at: datetime,
    group_by: Sequence[Group],
    after: Mapping[Group, Key] | None = None,
    limit: int = LIMIT_DEFAULT,
) -> UsageReport:
    """Return the usage of an account, or of all, in [start, end), in rows by key; running sessions count up to `at`.

    Raises InvalidInputError for a range, groups or a limit that is not allowed, AccessError without the right to read.
    """
    if start > end:
        raise InvalidInputError("start", start.isoformat(), f"at or before end, {end.isoformat()}")
    if end - start > RANGE_MAX:
        raise InvalidInputError("end", end.isoformat(), f"at most {RANGE_MAX.days} days after start")
    if not group_by or len(set(group_by)) != len(group_by):
        raise InvalidInputError("group_by", [*map(str, group_by)], f"one or more of {', '.join(Group)}, each once")
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidInputError("limit", limit, f"from 1 to {LIMIT_MAX}")
    if after is not None and list(after) != list(group_by):
        raise InvalidInputError("page_token", [*map(str, after)], "a token of a report with the same group_by")
    # A member of a team sees their own part; every account together is for who serves or administers all.
    whose = access.find_whose_usage(connection, actor, account)
    scope = Scope(account=None if account is None else account.attribution_id, user_id=whose)
    found, totals = sum_usage(
        connection, scope, start=start, end=end, at=at, groups=group_by, after=after, limit=limit + 1
    )
    shown = found[:limit]
    token = _token(Place(at=at, after=_keys(shown[-1], group_by))) if len(found) > limit else None
    return UsageReport(
        start=start,
        end=end,
        at=at,
        group_by=group_by,
        rows=[_row(each, group_by) for each in shown],
        totals=totals,
        next_page_token=token,
    )


def _keys(row: UsageRow, group_by: Sequence[Group]) -> dict[Group, Key]:
    return {group: getattr(row, group) for group in group_by}


def _row(row: UsageRow, group_by: Sequence[Group]) -> Mapping[str, object]:
    keys = {group.value: key for group, key in _keys(row, group_by).items()}
    return {**keys, "credit_cents": row.credit_cents, "seconds": row.seconds, "sessions": row.sessions}


def _token(place: Place) -> str:
    keys = [[group.value, str(key)] for group, key in place.after.items()]
    return base64.urlsafe_b64encode(json.dumps([place.at.isoformat(), keys]).encode()).decode()


def parse_token(token: str) -> Place:
    """Read a page's token. Raises InvalidInputError for a token that no report has returned."""
    try:
        at, keys = json.loads(base64.urlsafe_b64decode(token.encode()))
        place = Place(
            at=datetime.fromisoformat(at), after={Group(name): _key(Group(name), text) for name, text in keys}
        )
        if place.at.tzinfo is None or _token(place) != token:
            raise ValueError(token)
    except (ValueError, TypeError, AttributeError, binascii.Error, RecursionError) as error:
        raise InvalidInputError("page_token", token[:200], "the next_page_token of an earlier page") from error
    return place


def _key(group: Group, text: str) -> Key:
    match group:
        case Group.DAY:
            return date.fromisoformat(text)
        case Group.USER_ID:
            return parse_uuid(text)
    if not text.isprintable():  # no name is stored with it, and PostgreSQL has no text with NUL or half a character
        raise ValueError(text)
    return text

"""Store the platform's reports of its users and teams."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, ExternalName
from usage_tasks.domain.directory import TeamReport, UserReport, latest_teams, latest_users
from usage_tasks.storage.directory import people
from usage_tasks.storage.directory.names import keep_external_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Upserted:
    """The outcome of reports: how many hold now, and how many were old, known, or superseded in the same batch."""

    applied: int
    ignored: int


def upsert_users(connection: Connection, reports: Sequence[UserReport], *, at: datetime, actor: Actor) -> Upserted:
    """Apply the latest report of each user, in any order of arrival."""
    applied = people.upsert_users(connection, latest_users(reports), at=at, actor=actor)
    keep_external_ids(connection, _names(reports))
    return Upserted(applied=applied, ignored=len(reports) - applied)


def upsert_teams(connection: Connection, reports: Sequence[TeamReport], *, at: datetime, actor: Actor) -> Upserted:
    """Apply the latest report of each team, its members as a whole, in any order of arrival."""
    applied = people.upsert_teams(connection, latest_teams(reports), at=at, actor=actor)
    keep_external_ids(connection, _names(reports))
    return Upserted(applied=applied, ignored=len(reports) - applied)


def _names(reports: Sequence[UserReport] | Sequence[TeamReport]) -> Iterator[ExternalName]:
    return (name for report in reports for name in report.names)

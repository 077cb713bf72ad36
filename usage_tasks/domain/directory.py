"""Users and teams as the platform reports them: each report is complete, the latest holds. Source: docs/adr/0013."""

import hashlib
import hmac
import json
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NewType
from uuid import UUID

from usage_tasks.domain.access import TeamRole
from usage_tasks.domain.accounts import ExternalName

EmailDigest = NewType("EmailDigest", str)
"""The digest kept instead of an e-mail: equal for equal addresses, useless without the installation's key."""

_PURPOSE: Final = b"usage-tasks e-mail 1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserReport:
    """All there is to know of a user at an instant. Of a deleted one no e-mail and no name is kept.

    `names` are the external ids in the report; so in a TeamReport.
    """

    user_id: UUID
    email_digest: EmailDigest | None
    administrator: bool
    deleted: bool
    observed_at: datetime
    names: Sequence[ExternalName] = ()

    @property
    def order(self) -> tuple[datetime, bool, bool, str]:
        """Sort key of reports: the greatest holds. It is the latest, or at the same instant the stricter report."""
        return self.observed_at, self.deleted, not self.administrator, self.email_digest or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user in a team."""

    user_id: UUID
    role: TeamRole


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamReport:
    """All members of a team at an instant. A user whom it does not list has left the team."""

    team_id: UUID
    creator_user_id: UUID | None
    members: Sequence[Member]
    observed_at: datetime
    names: Sequence[ExternalName] = ()

    @property
    def digest(self) -> str:
        """Digest of the reported members, independent of their order. It orders reports of the same instant."""
        members = sorted((str(each.user_id), each.role.value) for each in self.members)
        hashed = json.dumps([None if self.creator_user_id is None else str(self.creator_user_id), members])
        return hashlib.sha256(hashed.encode()).hexdigest()

    @property
    def order(self) -> tuple[datetime, str]:
        """The order in which reports hold: the later observation, in any order of arrival."""
        return self.observed_at, self.digest


def latest_users(reports: Iterable[UserReport]) -> list[UserReport]:
    """Keep of each user the report that holds, in the order of their ids."""
    latest: dict[UUID, UserReport] = {}
    for report in reports:
        held = latest.setdefault(report.user_id, report)
        if report.order > held.order:
            latest[report.user_id] = report
    return [latest[user_id] for user_id in sorted(latest)]


def latest_teams(reports: Iterable[TeamReport]) -> list[TeamReport]:
    """Keep of each team the report that holds, in the order of their ids."""
    latest: dict[UUID, TeamReport] = {}
    for report in reports:
        held = latest.setdefault(report.team_id, report)
        if report.order > held.order:
            latest[report.team_id] = report
    return [latest[team_id] for team_id in sorted(latest)]


def normalise_email(email: str) -> str:
    """Bring the spellings of one address together: spaces around it, case, Unicode's forms, a domain in IDNA.

    Nothing that only some providers hold to be the same, such as dots or a `+tag`.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", email.strip()).casefold())
    local, _, domain = folded.rpartition("@")
    domain = domain.rstrip(".")
    with suppress(UnicodeError):  # no name that DNS could hold stays as it is written
        domain = domain.encode("idna").decode("ascii")
    return f"{local}@{domain}"


def digest_email(email: str, key: bytes) -> EmailDigest:
    """Return the HMAC-SHA256 of an address under the installation's key, in hexadecimal."""
    return EmailDigest(hmac.new(key, _PURPOSE + normalise_email(email).encode(), hashlib.sha256).hexdigest())

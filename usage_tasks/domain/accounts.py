"""Accounts, which pay, actors, which act, and the ids of sessions, users and teams.

An id is a UUID, or an external id, which stands for one. Source: docs/adr/0035.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, NewType, TypeAlias
from uuid import UUID, uuid5

from usage_tasks.domain.errors import InvalidInputError

AttributionId = NewType("AttributionId", str)
Actor = NewType("Actor", str)

_SERVICE_NAME_LENGTH_MAX = 64
EXTERNAL_ID_LENGTH_MAX: Final = 200
DISPLAY_NAME_LENGTH_MAX: Final = 200

Namespace: TypeAlias = Callable[[], UUID]
"""Returns the installation's namespace of external ids. It is called at an external id only."""

# A value in canonical form is recognised fast: a batch has thousands of them.
_CANONICAL: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LIKE_A_UUID: Final = re.compile(r"(?:urn:)?(?:uuid:)?[{(]?(?:-*[0-9a-f]){32}-*[)}]?", re.ASCII | re.IGNORECASE)


class AccountKind(StrEnum):
    """A team pays for its members; an individual for themselves."""

    TEAM = "team"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An attribution taken apart."""

    kind: AccountKind
    entity_id: UUID

    @property
    def attribution_id(self) -> AttributionId:
        """The canonical text form, `team:<uuid>` or `user:<uuid>` in lower case."""
        return AttributionId(f"{self.kind}:{self.entity_id}")


def parse_attribution(text: str, *, field: str = "attribution_id") -> Account:
    """Read `team:<uuid>` or `user:<uuid>`; raise InvalidInputError that names anything else."""
    kind, _, entity = text.partition(":")
    try:
        return Account(kind=AccountKind(kind), entity_id=parse_uuid(entity))
    except ValueError as error:
        raise InvalidInputError(field, text, "team:<uuid> or user:<uuid>") from error


def parse_uuid(text: str) -> UUID:
    """Read a UUID in its usual form of five groups; raise ValueError for the other spellings UUID() takes."""
    value = UUID(text)
    if str(value) != text.lower():
        raise ValueError(text)
    return value


def parse_actor(text: str) -> Actor:
    """Read `user:<uuid>` or `service:<name>`; raise InvalidInputError that names anything else."""
    kind, _, name = text.partition(":")
    if kind == "user":
        try:
            return Actor(f"user:{parse_uuid(name)}")
        except ValueError:
            pass
    elif kind == "service" and 0 < len(name) <= _SERVICE_NAME_LENGTH_MAX and name.isprintable():
        return Actor(text)
    raise InvalidInputError("actor", text, "user:<uuid> or service:<name>")


class NameKind(StrEnum):
    """What an id is of. Ids of different kinds never meet: a user and a team of the same external id differ."""

    SESSION = "session"
    USER = "user"
    TEAM = "team"


@dataclass(frozen=True, slots=True, order=True)
class ExternalName:
    """The external id of a `subject`: `session:<uuid>`, `user:<uuid>` or `team:<uuid>`."""

    subject: str
    external_id: str


class ExternalId(str):
    """An external id that stands in a message where a UUID may stand: as it came, `prefix` included."""

    kind: NameKind
    prefix: str

    def __new__(cls, external_id: str, kind: NameKind, *, prefix: str = "") -> "ExternalId":
        """Mark an external id that `parse_id` has accepted; `prefix` is "team:" or "user:" where one belongs to it."""
        marked = super().__new__(cls, prefix + external_id)
        marked.kind, marked.prefix = kind, prefix
        return marked

    @property
    def external_id(self) -> str:
        """The id without the prefix."""
        return self[len(self.prefix) :]

    def named(self, namespace: UUID) -> ExternalName:
        """Return the subject and its external id."""
        entity = _uuid_of(namespace, self.kind, self.external_id)
        return ExternalName(subject_of(self.kind, entity), self.external_id)

    def resolved(self, namespace: UUID) -> str:
        """Return the same text with the UUID in the place of the external id."""
        return self.prefix + _uuid_of(namespace, self.kind, self.external_id)


def subject_of(kind: NameKind, entity_id: UUID | str) -> str:
    """Return the text under which the names of a session, a user or a team are kept."""
    return f"{kind}:{entity_id}"


@lru_cache(maxsize=2_000)
def _uuid_of(namespace: UUID, kind: NameKind, external_id: str) -> str:
    """Return the UUID for which an external id stands. Each id of a report is asked for twice, a team's often."""
    return str(uuid5(namespace, f"{kind}:{external_id}"))


def parse_id(text: str, kind: NameKind, *, prefix: str = "") -> str:
    """Return an id with its prefix: a UUID in lower case, or an ExternalId.

    Raises ValueError, with the words after "must be", for a text that is neither, or that may be taken for another id.
    """
    if _CANONICAL.fullmatch(lowered := text.lower()):
        return prefix + lowered
    if _LIKE_A_UUID.fullmatch(text):
        raise ValueError("a UUID such as 11111111-2222-4333-8444-555555555555, or an id that does not look like one")
    if not is_plain(text, EXTERNAL_ID_LENGTH_MAX):
        raise ValueError(
            f"a UUID such as 11111111-2222-4333-8444-555555555555, or another id of 1 to {EXTERNAL_ID_LENGTH_MAX} "
            "printable characters, in Unicode's form NFC, without a space at either end"
        )
    return ExternalId(text, kind, prefix=prefix)


def is_plain(text: str, length_max: int) -> bool:
    """Return True if nobody can take a text for another one: printable, in the form NFC, no space at either end."""
    return (
        0 < len(text) <= length_max
        and text.isprintable()
        and text == text.strip()
        and unicodedata.is_normalized("NFC", text)
    )


def resolve(text: str, namespace: Namespace) -> str:
    """Return a text that may be an ExternalId with the UUID in its place."""
    return text.resolved(namespace()) if isinstance(text, ExternalId) else text

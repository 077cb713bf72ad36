"""Ids of sessions, users and teams: UUIDs, and external ids, which stand for UUIDs. Source: docs/adr/0035."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeAlias
from uuid import UUID, uuid5

EXTERNAL_ID_LENGTH_MAX: Final = 200
DISPLAY_NAME_LENGTH_MAX: Final = 200

Namespace: TypeAlias = Callable[[], UUID]
"""Returns the installation's namespace of external ids. It is called at an external id only."""

# A value in canonical form is recognised fast: a batch has thousands of them.
_CANONICAL: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LIKE_A_UUID: Final = re.compile(r"(?:urn:)?(?:uuid:)?[{(]?(?:-*[0-9a-f]){32}-*[)}]?", re.ASCII | re.IGNORECASE)


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
        return ExternalName(f"{self.kind}:{_uuid_of(namespace, self.kind, self.external_id)}", self.external_id)

    def resolved(self, namespace: UUID) -> str:
        """Return the same text with the UUID in the place of the external id."""
        return self.prefix + _uuid_of(namespace, self.kind, self.external_id)


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

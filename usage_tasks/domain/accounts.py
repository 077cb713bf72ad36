"""Accounts, which pay, and actors, which act."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType
from uuid import UUID

from usage_tasks.domain.errors import InvalidInputError

AttributionId = NewType("AttributionId", str)
Actor = NewType("Actor", str)

_SERVICE_NAME_LENGTH_MAX = 64


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

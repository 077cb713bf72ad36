"""Read the names of a session, a user or a team, and set its display name."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.errors import InvalidInputError, NoSuchError
from usage_tasks.domain.names import NameKind
from usage_tasks.storage.directory import names, people
from usage_tasks.storage.directory.names import NAMELESS, Names
from usage_tasks.storage.ledger.explanation import find_owner
from usage_tasks.storage.operations import audit


def get_names(connection: Connection, subject: str) -> Names:
    """Return the names of `session:<uuid>`, `user:<uuid>` or `team:<uuid>`, known or not."""
    return names.find_names(connection, [subject]).get(subject, NAMELESS)


def set_display_name(
    connection: Connection, subject: str, display_name: str | None, *, at: datetime, actor: Actor
) -> Names:
    """Set or remove a display name, and return the names. The audit has that it was changed, and no name.

    Raises NoSuchError for a session that was never reported, and InvalidInputError for a deleted user, of whom nothing
    personal is kept.
    """
    kind, _, entity = subject.partition(":")
    if kind == NameKind.SESSION and find_owner(connection, UUID(entity)) is None:
        raise NoSuchError("instance_id", entity, "session")
    if kind == NameKind.USER and people.find_person(connection, UUID(entity), team_id=None).deleted:
        raise InvalidInputError("attribution_id", subject, "an account whose user is not deleted")
    if get_names(connection, subject).display_name != display_name:
        names.set_display_name(connection, subject, display_name)
        account = None if kind == NameKind.SESSION else AttributionId(subject)
        details = {"subject": subject, "is_named": display_name is not None}
        audit.append_audit(connection, at=at, actor=actor, action="name.set", attribution_id=account, details=details)
    return get_names(connection, subject)

"""Set the display name of a session, a user or a team."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId, NameKind
from usage_tasks.domain.errors import InvalidInputError, NoSuchError
from usage_tasks.storage.directory import names
from usage_tasks.storage.directory.names import NAMELESS
from usage_tasks.storage.ledger.explanation import find_owner
from usage_tasks.storage.operations import audit


def set_display_name(
    connection: Connection, subject: str, display_name: str | None, *, at: datetime, actor: Actor
) -> None:
    """Set or remove the display name of a subject. The audit has that it was changed, and no name.

    Raises NoSuchError for a session that was never reported, and InvalidInputError for a deleted user, of whom nothing
    personal is kept.
    """
    kind, _, entity = subject.partition(":")
    if kind == NameKind.SESSION and find_owner(connection, UUID(entity)) is None:
        raise NoSuchError("instance_id", entity, "session")
    if kind == NameKind.USER and names.hold_user(connection, UUID(entity)):
        raise InvalidInputError("attribution_id", subject, "an account whose user is not deleted")
    if names.find_names(connection, [subject]).get(subject, NAMELESS).display_name == display_name:
        return
    names.set_display_name(connection, subject, display_name)
    account = None if kind == NameKind.SESSION else AttributionId(subject)
    details = {"subject": subject, "is_named": display_name is not None}
    audit.append_audit(connection, at=at, actor=actor, action="name.set", attribution_id=account, details=details)

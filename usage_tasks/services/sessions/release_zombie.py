"""Release a zombie: a person confirms that it runs."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.errors import NoSuchError
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.operations import audit
from usage_tasks.storage.sessions import zombies
from usage_tasks.storage.sessions.zombies import Zombie


def release_session(connection: Connection, instance_id: UUID, *, at: datetime, actor: Actor) -> Zombie | None:
    """Lift a session's cap for good and return the zombie; if it has no cap, do nothing and return None.

    Raises InvalidInputError for a session that nobody reported.
    """
    account, zombie = _lock(connection, instance_id)
    if zombie is None:
        return None
    zombies.release(connection, zombie)
    details = {"instance_id": str(instance_id), "reason": zombie.cap_reason, "capped_at": zombie.capped_at.isoformat()}
    audit.append_audit(
        connection, at=at, actor=actor, action="session.released", attribution_id=account, details=details
    )
    return zombie


def plan_release(connection: Connection, instance_id: UUID) -> Zombie | None:
    """Return the cap that `release_session` would lift."""
    with rehearsal(connection):
        return _lock(connection, instance_id)[1]


def _lock(connection: Connection, instance_id: UUID) -> tuple[AttributionId, Zombie | None]:
    found = zombies.lock_session(connection, instance_id)
    if found is None:
        raise NoSuchError("instance_id", str(instance_id), "session")
    return found

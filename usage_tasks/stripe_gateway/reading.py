"""Small readings of the SDK's objects that every call needs."""

from datetime import UTC, datetime

from usage_tasks.domain.errors import PermanentError


def id_of(reference: object) -> str:
    """A reference is an id or, where expanded, the object."""
    identifier = reference if isinstance(reference, str) else getattr(reference, "id", None)
    if not isinstance(identifier, str):
        raise PermanentError(f"stripe: a reference without an id: {type(reference).__name__}")
    return identifier


def moment(unix_seconds: int) -> datetime:
    """Stripe's times are whole seconds of UTC."""
    return datetime.fromtimestamp(unix_seconds, tz=UTC)

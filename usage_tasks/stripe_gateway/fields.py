"""One of Stripe's objects, field by field: each reading names the object and the field that does not fit.

Stripe's description calls a field nullable, optional, or both. `find_x` takes such a field and returns None for null
and for an absent one; `x` is for a field that the system can't do without.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import stripe

from usage_tasks.domain.errors import PermanentError

_SHOWN_MAX: Final = 40


class InvalidStripeObjectError(PermanentError):
    """An object of Stripe's lacks what is needed of it; the message names the object, the field and what it must be."""


def moment(unix_seconds: int) -> datetime:
    """Turn Stripe's times, whole seconds of UTC, into an aware datetime."""
    return datetime.fromtimestamp(unix_seconds, tz=UTC)


class Fields:
    """An object of Stripe's as plain JSON; `kind` is the word for it in messages."""

    def __init__(self, value: object, kind: str) -> None:
        plain = value.to_dict(for_json=True) if isinstance(value, stripe.StripeObject) else value
        self.name = kind
        if not isinstance(plain, dict):
            raise InvalidStripeObjectError(f"stripe {kind}: must be an object (got {_shown(plain)})")
        self._plain: dict[str, Any] = plain
        if isinstance(identifier := plain.get("id"), str):
            self.name = f"{kind} {identifier}"

    def wrong(self, field: str, allowed: str, *, word: str | None = None) -> InvalidStripeObjectError:
        """Build the error for a field that is not as it must be; a `word` of Stripe's own may be shown."""
        got = _shown(self._plain[field]) if field in self._plain else "nothing"
        got = got if word is None else repr(word[:_SHOWN_MAX])
        return InvalidStripeObjectError(f"stripe {self.name}: `{field}`: must be {allowed} (got {got})")

    def find(self, field: str) -> Any:
        """Return a field's value as it is; None for null and for an absent field."""
        return self._plain.get(field)

    def find_text(self, field: str) -> str | None:
        value = self.find(field)
        if value is not None and not isinstance(value, str):
            raise self.wrong(field, "text")
        return value

    def text(self, field: str) -> str:
        value = self.find(field)
        if not isinstance(value, str) or not value:
            raise self.wrong(field, "text")
        return value

    def find_integer(self, field: str) -> int | None:
        value = self.find(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.wrong(field, "a whole number")
        return value

    def integer(self, field: str) -> int:
        value = self.find_integer(field)
        if value is None:
            raise self.wrong(field, "a whole number")
        return value

    def flag(self, field: str) -> bool:
        value = self.find(field)
        if not isinstance(value, bool):
            raise self.wrong(field, "true or false")
        return value

    def find_decimal(self, field: str) -> Decimal | None:
        """Return a number exactly; Stripe writes decimals as text, and some as JSON numbers."""
        value = self.find(field)
        if value is None:
            return None
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            raise self.wrong(field, "a number") from None
        if isinstance(value, bool) or not number.is_finite():
            raise self.wrong(field, "a number")
        return number

    def find_moment(self, field: str) -> datetime | None:
        seconds = self.find_integer(field)
        if seconds is None:
            return None
        try:
            return moment(seconds)
        except (OverflowError, ValueError, OSError):
            raise self.wrong(field, "a time in seconds") from None

    def moment(self, field: str) -> datetime:
        found = self.find_moment(field)
        if found is None:
            raise self.wrong(field, "a time in seconds")
        return found

    def find_reference(self, field: str) -> str | None:
        """Return the id of another object: it stands here itself or, where expanded, in the object."""
        value = self.find(field)
        if value is None:
            return None
        identifier = value.get("id") if isinstance(value, dict) else value
        if not isinstance(identifier, str) or not identifier:
            raise self.wrong(field, "an id, or an object with one")
        return identifier

    def reference(self, field: str) -> str:
        found = self.find_reference(field)
        if found is None:
            raise self.wrong(field, "an id, or an object with one")
        return found

    def find_object(self, field: str) -> "Fields | None":
        value = self.find(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(field, "an object")
        return Fields(value, f"{self.name}: {field}")

    def object(self, field: str) -> "Fields":
        found = self.find_object(field)
        if found is None:
            raise self.wrong(field, "an object")
        return found

    def objects(self, field: str, kind: str) -> Sequence["Fields"]:
        """Return the objects of a list of JSON."""
        value = self.find(field)
        if not isinstance(value, list):
            raise self.wrong(field, "a list")
        return [Fields(each, f"{self.name}: {kind}") for each in value]

    def texts(self, field: str) -> dict[str, str]:
        """Return what was once written on an object as metadata; nothing for one without."""
        found = self.find_object(field)
        return (
            {} if found is None else {name: text for name in found.names() if isinstance(text := found.find(name), str)}
        )

    def names(self) -> frozenset[str]:
        """Return the names of all fields."""
        return frozenset(self._plain)


def _shown(value: object) -> str:
    """Write a value for a message; of text only that it is text, for it may be a payer's."""
    if value is None:
        return "null"
    if isinstance(value, bool | int):
        return str(value)[:_SHOWN_MAX].lower()
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else "no number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"

"""Stripe's errors: what each means for the caller, in one table, and our error for it.

Source: https://docs.stripe.com/api/errors, https://docs.stripe.com/api/idempotent_requests and docs/adr/0025.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

import stripe

from usage_tasks.domain.errors import (
    AccessDeniedError,
    DeclinedError,
    NotFoundError,
    PermanentError,
    RetryableError,
    SpentKeyError,
    UsageError,
)

RETRY_AFTER_MAX: Final = timedelta(minutes=10)
REPLAYED: Final = "idempotent-replayed"
_HTTP_TOO_MANY: Final = 429
_HTTP_SERVER_ERROR: Final = 500


class Meaning(StrEnum):
    """The things that an error of Stripe's can mean for a caller."""

    AGAIN = "the same call may succeed later"
    LOOK = "the key is spent: look at what Stripe has"
    DECLINED = "a bank said no"
    MISSING = "there is no such object"
    DENIED = "Stripe refuses us, whatever we ask"
    NEVER = "the call can never succeed"


BY_CODE: Final[Mapping[str, Meaning]] = {
    "idempotency_key_in_use": Meaning.AGAIN,
    "lock_timeout": Meaning.AGAIN,
    "rate_limit": Meaning.AGAIN,
    "taxes_calculation_failed": Meaning.AGAIN,
    "resource_missing": Meaning.MISSING,
    "api_key_expired": Meaning.DENIED,
    "platform_api_key_expired": Meaning.DENIED,
}
"""The codes that mean something else than the type and the status that they come with."""

BY_TYPE: Final[Mapping[str, Meaning]] = {
    "idempotency_error": Meaning.LOOK,
    "api_error": Meaning.AGAIN,
    "card_error": Meaning.DECLINED,
}
BY_STATUS: Final[Mapping[int, Meaning]] = {
    401: Meaning.DENIED,
    402: Meaning.DECLINED,
    403: Meaning.DENIED,
    409: Meaning.AGAIN,
    424: Meaning.AGAIN,
    429: Meaning.AGAIN,
}
"""Other statuses from 500 on are AGAIN, and those below NEVER."""

_PERSONAL: Final = ("customers.", "payment_methods.", "payment_intents.")
_UNSPEAKABLE: Final = re.compile(
    r"\b(?:sk|rk|whsec|pm|card|src|tok)_\w+|\w+_secret_\w+|\S+@\S+|\b[0-9](?:[ -]?[0-9]){11,18}\b"
)
"""Secrets, ids of payment methods, e-mail addresses, card numbers."""

_REPEATED: Final = "Stripe repeated the error that it stored under the idempotency key"
_REUSED: Final = "the idempotency key was used before, with other arguments"
_NO_WORDS: Final = "Stripe's words are left out, for they may hold what a payer has entered"


def meaning_of(error: stripe.StripeError) -> Meaning:
    """Look an error up: by its code, else by its type, else by its status."""
    status, code, kind = error.http_status or 0, _detail(error, "code") or "", _detail(error, "type") or ""
    if code in BY_CODE:
        return BY_CODE[code]
    if kind in BY_TYPE:
        return BY_TYPE[kind]
    # The SDK raises APIError also for an answer that it can't read, such as a proxy's page or half a reply.
    if isinstance(error, stripe.APIConnectionError | stripe.APIError | stripe.RateLimitError):
        return Meaning.AGAIN
    return BY_STATUS.get(status, Meaning.AGAIN if status >= _HTTP_SERVER_ERROR else Meaning.NEVER)


def translate(error: stripe.StripeError, operation: str) -> UsageError:
    """Build our error: its message has Stripe's code, field and request id and a reason in words, never a secret."""
    meaning, code = meaning_of(error), _detail(error, "code")
    if is_replayed(error.headers):
        return SpentKeyError(_described(error, operation, _REPEATED), answered=True)
    match meaning:
        case Meaning.AGAIN:
            return RetryableError(_described(error, operation, _words(error, operation)), retry_after=_wait(error))
        case Meaning.LOOK:
            return SpentKeyError(_described(error, operation, _REUSED), answered=False)
        case Meaning.DECLINED:
            declined = _detail(error, "decline_code") or code
            return DeclinedError(
                _described(error, operation, f"a bank said no: {declined or 'it gave no code'}"), declined
            )
    kinds: dict[Meaning, type[PermanentError]] = {Meaning.MISSING: NotFoundError, Meaning.DENIED: AccessDeniedError}
    return kinds.get(meaning, PermanentError)(_described(error, operation, _words(error, operation)))


def is_replayed(headers: Mapping[str, Any] | None) -> bool:
    """True if Stripe gave an answer that it had stored under the idempotency key."""
    return any(name.lower() == REPLAYED and str(value).lower() == "true" for name, value in (headers or {}).items())


def _described(error: stripe.StripeError, operation: str, words: str) -> str:
    named = {"code": _detail(error, "code"), "param": _detail(error, "param")}
    found = "".join(f", {name} {_UNSPEAKABLE.sub('...', value)}" for name, value in named.items() if value)
    status = error.http_status or "without an answer"
    return f"stripe {operation}: {type(error).__name__} {status}{found}, request {error.request_id}: {words}"


def _words(error: stripe.StripeError, operation: str) -> str:
    """Return Stripe's words; of a payer they may repeat what is personal."""
    if isinstance(error, stripe.APIConnectionError):
        return "no answer came"
    if operation.startswith(_PERSONAL):
        return _NO_WORDS
    return _UNSPEAKABLE.sub("...", str(error.user_message or "")) or "Stripe gave no reason"


def _detail(error: stripe.StripeError, name: str) -> str | None:
    """Return a field of the error's body; the SDK's own attributes lack it for some classes."""
    value = getattr(error.error, name, None) if error.error is not None else None
    return value if isinstance(value, str) and value else None


def _wait(error: stripe.StripeError) -> timedelta | None:
    """Return how long Stripe asks to wait; a 429 without a time means a second."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    stated = str(headers.get("retry-after", ""))
    if stated.isascii() and stated.isdigit():
        return min(timedelta(seconds=int(stated)), RETRY_AFTER_MAX)
    return timedelta(seconds=1) if error.http_status == _HTTP_TOO_MANY else None

"""Is this request really Stripe's, and which event does it bring?

Source: https://docs.stripe.com/webhooks/signature. The SDK computes and compares the signature. The age of it is
judged here: the SDK reads a clock of its own and lets timestamps of the future pass.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from stripe import SignatureVerificationError, StripeClient, WebhookSignature
from stripe.v2.core import EventNotification

from usage_tasks.domain.errors import PermanentError

AGE_MAX: Final = timedelta(seconds=300)
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
# The id becomes the task's id, a key and a word in the log: nothing else may be smuggled in.
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9_]{1,255}")


class WebhookRefusedError(PermanentError):
    """This request is not taken; the message is short, fixed and safe to answer with and to log.

    `clock_ahead`: the signature is right, and our clock is so far ahead of its time, or behind where negative.
    """

    def __init__(self, message: str, *, clock_ahead: timedelta | None = None) -> None:
        super().__init__(message)
        self.clock_ahead = clock_ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvent:
    """An event that one of our secrets has signed; `body` is the text as it was signed."""

    event_id: str
    event_type: str
    body: str


def verify_event(body: bytes, signature: str, secrets: Sequence[str], *, at: datetime) -> VerifiedEvent:
    """The event of a request, when its signature is by one of the secrets and no more than 300 s off.

    Raises WebhookRefusedError otherwise, and for a body that is no snapshot event.
    """
    text = _signed_text(body, signature, secrets, at=at)
    event = _json(text)
    if event.get("object") != "event":
        raise WebhookRefusedError("body is no snapshot event")
    return _verified(event, text)


def verify_thin_event(body: bytes, signature: str, secrets: Sequence[str], *, at: datetime) -> VerifiedEvent:
    """Return the thin event of a request, as the SDK parses it, under the same conditions.

    It only names its type and its object; the event itself is fetched when it is applied.
    """
    text = _signed_text(body, signature, secrets, at=at)
    event = _json(text)
    if event.get("object") != "v2.core.event":
        raise WebhookRefusedError("body is no thin event")
    verified = _verified(event, text)
    try:
        EventNotification.from_json(event, _parser())
    except (ValueError, LookupError, TypeError, AttributeError):
        raise WebhookRefusedError("body is no thin event") from None
    return verified


@cache
def _parser() -> StripeClient:
    # The SDK's parser wants a client to fetch with; this one never calls anybody.
    return StripeClient("parses only")


def _signed_text(body: bytes, signature: str, secrets: Sequence[str], *, at: datetime) -> str:
    text = _text(body)
    if not any(_is_signed(text, signature, secret) for secret in secrets):
        raise WebhookRefusedError("bad signature")
    ahead = timedelta(seconds=at.timestamp() - _signed_at(signature))
    if abs(ahead) > AGE_MAX:
        raise WebhookRefusedError("timestamp too far from now", clock_ahead=ahead)
    return text


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise WebhookRefusedError("body is not UTF-8") from None


def _is_signed(text: str, signature: str, secret: str) -> bool:
    # The SDK compares in constant time, which Python can't do for other than ASCII: it raises TypeError.
    if not signature.isascii():
        return False
    try:
        # Without a tolerance the SDK looks at the signature only.
        WebhookSignature.verify_header(text, signature, secret, tolerance=None)
    except SignatureVerificationError:
        return False
    return True


def _signed_at(signature: str) -> int:
    # The first one, as the SDK takes it: the signature is over it.
    first = next((item[2:] for item in signature.split(",") if item.startswith("t=")), "")
    if not _TIMESTAMP.fullmatch(first):
        raise WebhookRefusedError("bad signature")
    return int(first)


def _json(text: str) -> dict[str, Any]:
    try:
        event = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise WebhookRefusedError("body is not JSON") from None
    return event if isinstance(event, dict) else {}


def _refuse_constant(word: str) -> None:
    # NaN and Infinity: Python reads them, JSON has none.
    raise ValueError(word)


def _verified(event: dict[str, Any], text: str) -> VerifiedEvent:
    event_id, event_type = event.get("id"), event.get("type")
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        raise WebhookRefusedError("event without an id")
    if not isinstance(event_type, str):
        raise WebhookRefusedError("event without a type")
    return VerifiedEvent(event_id=event_id, event_type=event_type, body=text)

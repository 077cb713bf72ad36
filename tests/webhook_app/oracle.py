"""The expected outcome of a request to the receiver, without its code, in the words of docs/semantics.md.

The HMAC is computed by the rule that Stripe publishes and the JSON read by the standard library. The official SDK
decides whether an event is a thin event.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from stripe import StripeClient
from stripe.v2.core import EventNotification

from tests.webhook_app.mutations import ENDPOINTS, MEBIBYTE, Request

_SDK: Final = StripeClient("parses only")
_SECONDS_MAX: Final = 300


class Verdict(StrEnum):
    """EITHER: correctly signed, but by an undocumented header; to refuse it is as safe as to accept it."""

    TAKE = "take"
    REFUSE = "refuse"
    EITHER = "either"


def judge(request: Request, at: int) -> Verdict:
    """Return the expected outcome of a request that arrives at an instant."""
    secrets = ENDPOINTS.get(request.path)
    if request.method != "POST" or secrets is None or len(request.body) > MEBIBYTE:
        return Verdict.REFUSE
    header = request.headers.get("stripe-signature", "")
    if not is_signed(request.body, header, secrets, at) or event_of(request.path, request.body) is None:
        return Verdict.REFUSE
    return Verdict.TAKE if _is_by_the_book(header) else Verdict.EITHER


def is_signed(body: bytes, header: str, secrets: tuple[str, ...], at: int) -> bool:
    """True if one of the secrets has signed the body at the first time of the header, within five minutes."""
    items = header.split(",")
    stated = next((item[2:] for item in items if item.startswith("t=")), "")
    if not re.fullmatch("[0-9]{1,12}", stated) or abs(int(stated) - at) > _SECONDS_MAX:
        return False
    given = {item[3:] for item in items if item.startswith("v1=")}
    signed = f"{int(stated)}.".encode() + body
    return any(hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() in given for secret in secrets)


def event_of(path: str, body: bytes) -> Mapping[str, Any] | None:
    """Return the event in a body, if it is of the endpoint's kind, or None."""
    try:
        event = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        return None
    event_id = event.get("id")
    if not isinstance(event_id, str) or not re.fullmatch("[A-Za-z0-9_]{1,255}", event_id):
        return None
    if path == "/webhook":
        return event if event.get("object") == "event" else None
    try:
        EventNotification.from_json(event, _SDK)
    except Exception:  # noqa: BLE001 - whatever the SDK makes of it, it made no event
        return None
    return event if event.get("object") == "v2.core.event" else None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _is_by_the_book(header: str) -> bool:
    """True if each item is a name, one equals sign and a value, in ASCII, and one of them is the time."""
    items = [item.split("=") for item in header.split(",")]
    whole = header.isascii() and all(len(item) == 2 for item in items)
    return whole and [item[0] for item in items].count("t") == 1

"""A message as it lies in Redis, read with suspicion: a process that can write to the broker can write anything.

kombu and Celery trust the fields of a message, and many wrong fields raise far from the place that reads them, some of
them again and again. Here the whole envelope is checked before either of them sees it, so that they get
only messages that a sender of theirs would have written.

Source: https://docs.celeryq.dev/en/stable/internals/protocol.html (versions 1 and 2 of the protocol). Internal: the
envelope of kombu's virtual transports, 5.7, made by `Channel.prepare_message` and `_inplace_augment_message`.
"""

import base64
import binascii
import json
import uuid
from typing import Any, Final

from usage_tasks.coordination.celery_internals.codecs import UNPACKED_BYTES_MAX, CodecError, decompress

ITEM_BYTES_MAX: Final = 48 << 20
"""The longest item of a queue: a body of `UNPACKED_BYTES_MAX` in base64 has 45 MB, and there is the envelope."""

VALUES_MAX: Final = 2_000_000
"""The most values of JSON in an item or a body: in Python each takes up to 70 bytes. A legal message has 300,000."""

JSON_TYPE: Final = "application/json"
_UTF8: Final = "utf-8"
_BASE64: Final = "base64"


class UnreadableError(ValueError):
    """No sender of Celery's would have written this message; the text names the field."""


def read_envelope(item: bytes, queue: str) -> dict[str, Any]:
    """Return the envelope of an item of a queue; delivery tag and delivery info are ours. Raises UnreadableError.

    The sender's tag is not used: two messages with one tag would stand for one another in the list of the
    unacknowledged. Its routing is not used either: a message goes back to the queue that it came from.
    """
    envelope = check_envelope(parse_json(item))
    properties = dict(envelope.get("properties") or {})
    delivery_info = dict(properties.get("delivery_info") or {})
    properties["delivery_info"] = delivery_info | {"exchange": "", "routing_key": queue}
    properties["delivery_tag"] = str(uuid.uuid4())
    return envelope | {"headers": envelope.get("headers") or {}, "properties": properties}


def check_envelope(envelope: object) -> dict[str, Any]:
    """Return an envelope that kombu can make a message of, and put back. Raises UnreadableError."""
    if not isinstance(envelope, dict):
        raise UnreadableError(f"message: must be an object (got {shown(envelope)})")
    _expect("headers", envelope.get("headers"), dict)
    _expect("content-type", envelope.get("content-type"), str)
    _expect("content-encoding", envelope.get("content-encoding"), str)
    _expect("body", envelope.get("body"), str)
    _expect("compression", (envelope.get("headers") or {}).get("compression"), str)
    properties = envelope.get("properties") or {}
    _expect("properties", properties, dict)
    _expect("delivery_info", properties.get("delivery_info"), dict)
    for name in ("correlation_id", "reply_to"):
        _expect(name, properties.get(name), str)
    for name in ("priority", "delivery_mode"):
        _expect(name, properties.get(name), int)
    if properties.get("body_encoding") not in (None, _UTF8, _BASE64):
        raise UnreadableError(f"body_encoding: must be base64 or utf-8 (got {shown(properties['body_encoding'])})")
    return envelope


def find_headers(item: bytes) -> object:
    """Return the headers that an item has, unchecked, or None if it is no envelope at all."""
    try:
        envelope = parse_json(item)
    except UnreadableError:
        return None
    return envelope.get("headers") if isinstance(envelope, dict) else None


def unpack_body(envelope: dict[str, Any]) -> bytes:
    """Return the body of an envelope, decoded and unpacked as kombu does it. Raises UnreadableError."""
    body = str(envelope.get("body") or "").encode(errors="surrogatepass")
    try:
        if (envelope.get("properties") or {}).get("body_encoding") == _BASE64:
            body = base64.b64decode(body)
        compression = (envelope.get("headers") or {}).get("compression")
        return decompress(body, compression) if compression else body
    except (binascii.Error, CodecError) as error:
        raise UnreadableError(f"body: {error}") from error


def parse_json(text: bytes) -> Any:
    """Return the content of an item, within its bounds. Raises UnreadableError."""
    check_size(text, ITEM_BYTES_MAX)
    try:
        return json.loads(text.decode())  # UTF-8 and nothing else: json would take UTF-16 too, and kombu does not
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"message: must be JSON ({error})") from error


def check_size(text: bytes | str, bytes_max: int = UNPACKED_BYTES_MAX) -> None:
    """Raise UnreadableError for a text of JSON that is too long, or may hold more values than a legal one.

    It is not parsed: a value of three bytes takes seventy in Python.
    """
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(data) > bytes_max:
        raise UnreadableError(f"message: must be at most {bytes_max:,} bytes (got {len(data):,})")
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > VALUES_MAX:
        raise UnreadableError(f"message: must have at most {VALUES_MAX:,} values")


def _expect(name: str, value: object, kind: type) -> None:
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        words = {dict: "an object", str: "a text", int: "a whole number"}[kind]
        raise UnreadableError(f"{name}: must be {words} (got {shown(value)})")
    if isinstance(value, str) and name != "body" and not value.isprintable():
        raise UnreadableError(f"{name}: must be printable (got {shown(value)})")


def shown(value: object) -> str:
    """Return a short text that shows a value of a message; never much of it, for it may hold anything."""
    kinds = {type(None): "null", dict: "an object", list: "a list", bool: "a boolean"}
    return kinds.get(type(value)) or ascii(value)[:40]

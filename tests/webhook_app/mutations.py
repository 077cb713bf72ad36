"""Mutated requests: an event of Stripe's with changes of its body, its signature and its surroundings.

Everything is drawn from the given `Random`: a seeded one, one of Hypothesis, or the bytes that a fuzzer changes
(`ByteRandom`). tests/webhook_app/oracle.py decides the expected outcome of a request; it knows nothing of the kinds.
"""

import hashlib
import hmac
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.webhook_app.receiver import SECRETS, THIN_SECRETS

MEBIBYTE: Final = 1024 * 1024
ENDPOINTS: Final = {"/webhook": SECRETS, "/webhook/thin": THIN_SECRETS}
OTHER_PATHS: Final = ("/webhook/", "/", "/healthz", "/readyz", "//webhook", "/webhook/thin/", "/WEBHOOK", "/webhook;x")
METHODS: Final = ("POST",) * 30 + ("GET", "PUT", "HEAD", "post", "OPTIONS", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One mutated request, and its mutations."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    body_kind: str
    signature_kind: str


class ByteRandom(Random):
    """Draws from bytes, so that a fuzzer that changes a byte changes a choice; at their end a seeded random goes on."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place, self._more = data, 0, Random(zlib.crc32(data))
        super().__init__(0)

    def getrandbits(self, k: int, /) -> int:
        """Take enough bytes for `k` bits."""
        size = (k + 7) // 8
        taken = self._data[self._place : self._place + size]
        self._place += size
        if len(taken) < size:
            return self._more.getrandbits(k)
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """Draw a number below 1."""
        return self.getrandbits(53) / (1 << 53)


def make_request(random: Random, at: int) -> Request:
    """Draw a request as of an instant."""
    endpoint = random.choice(("/webhook", "/webhook", "/webhook/thin"))
    event = make(random, endpoint)
    body_kind = random.choice(BODY_KINDS)
    body = BODIES[body_kind](random, event)
    signature_kind = random.choice(SIGNATURE_KINDS)
    signature = SIGNATURES[signature_kind](random, Signing(body, dumps(event), endpoint, at))
    headers = {} if signature is None else {"stripe-signature": signature}
    if random.randrange(8) == 0:
        headers["x-forwarded-for"] = random.choice(("192.0.2.1", "::1, nonsense", "\xff" * 9, "," * 500, text(random)))
    return Request(
        method=random.choice(METHODS),
        path=endpoint if random.randrange(16) else random.choice((*OTHER_PATHS, *ENDPOINTS)),
        body=body,
        headers=headers,
        body_kind=body_kind,
        signature_kind=signature_kind,
    )


def make(random: Random, endpoint: str) -> dict[str, Any]:
    """An event as Stripe sends it to an endpoint."""
    number = random.randrange(1 << 32)
    if endpoint == "/webhook":
        kind = random.choice(("invoice.paid", "customer.updated", "something.from.the.future"))
        subject = {"id": f"in_{number}", "object": "invoice", "lines": {"data": [{"quantity": number}]}}
        return {"id": f"evt_{number}", "object": "event", "type": kind, "created": number, "data": {"object": subject}}
    kind = random.choice(("v1.billing.meter.error_report_triggered", "v9.from.the.future"))
    related = {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"}
    created = "2026-01-31T10:00:00.000Z"
    thin = {"id": f"evt_thin_{number}", "object": "v2.core.event", "type": kind, "created": created}
    return thin | {"livemode": False, "related_object": related}


def dumps(value: Any) -> bytes:
    """JSON as bytes; lone surrogates stay escaped."""
    return json.dumps(value).encode()


def text(random: Random) -> str:
    """A little Latin-1 text, control characters included."""
    return random.randbytes(random.randrange(40)).decode("latin-1")


def value(random: Random, depth: int = 2) -> Any:  # noqa: PLR0911 - a table of cases
    """Some JSON value."""
    match random.randrange(9 if depth else 7):
        case 0:
            return None
        case 1:
            return bool(random.randrange(2))
        case 2:
            return random.choice((0, -1, 1 << 63, -(1 << 80), 10**400, 1.5, -0.0, 1e-300))
        case 3:
            return text(random)
        case 4:
            return random.choice(
                ("", "\x00", "\ud800", "é€😀", "\u2028", "x" * 300, "evt_1\n", "event", "v2.core.event")
            )
        case 5:
            return random.choice(([], {}, [[]], {"": {}}))
        case 6:
            return random.randrange(1 << 40)
        case 7:
            return [value(random, depth - 1) for _ in range(random.randrange(4))]
    return {text(random): value(random, depth - 1) for _ in range(random.randrange(4))}


# Bodies: each takes the event and returns the bytes sent in its place.


def odd_event(random: Random, event: dict[str, Any]) -> bytes:  # noqa: PLR0911 - a table of cases
    """An event that must be accepted, though Stripe never sent one like it."""
    plain = dumps(event)
    match random.randrange(10):
        case 0:
            return dumps(event | {"type": random.choice(("", "\x00", "\ud800", "é€😀", "x" * 5_000, "a\nb"))})
        case 1:
            return dumps(event | {"id": "e" * random.choice((1, 254, 255))})
        case 2:
            return b'{"id": "evt_first", "object": "x", "type": 7, ' + plain[1:]
        case 3:
            return plain[:-1] + b', "amount": ' + random.choice((b"1" * 4_000, b"1e400", b"-1E-999", b"0.0")) + b"}"
        case 4:
            return json.dumps(event | {"city": "Zürich €😀\u2028"}, ensure_ascii=False).encode()
        case 5:
            return b" \r\n\t" * random.randrange(9) + json.dumps(event, indent=random.randrange(5)).encode() + b"\n" * 9
        case 6:
            return plain.replace(b'"id"', b'"\\u0069d"', 1)
        case 7:
            depth = random.randrange(1, 200)
            return plain[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}"
        case 8:
            return dumps(event | {"x": value(random, 4)})
    return dumps(event | {"data": {"object": value(random)}})


def edited(random: Random, event: dict[str, Any]) -> bytes:
    """A few bytes changed, cut out, inserted, doubled, or the rest cut off."""
    body = dumps(event)
    for _ in range(random.randrange(1, 4)):
        place, size = random.randrange(len(body) + 1), random.randrange(1, 9)
        before, after = body[:place], body[place:]
        match random.randrange(6):
            case 0:
                body = before + random.randbytes(1) + after[1:]
            case 1:
                body = before + after[size:]
            case 2:
                body = before + random.randbytes(size) + after
            case 3:
                body = before + after[:size] + after
            case 4:
                body = before + random.choice((b'"', b"{", b"}", b"\\", b",", b"\x00", b"0")) + after
            case _:
                body = before
    return body


def field(random: Random, event: dict[str, Any]) -> bytes:
    """A missing field, or a field of another value."""
    name = random.choice((*event, "id", "object", "type", "context", "reason", "new"))
    if random.randrange(4) == 0:
        return dumps({key: held for key, held in event.items() if key != name})
    return dumps(event | {name: value(random)})


def not_utf8(random: Random, event: dict[str, Any]) -> bytes:
    """Bytes that are not valid UTF-8, in a string or anywhere."""
    body = dumps(event)
    place = random.choice((body.index(b"evt_"), random.randrange(len(body))))
    bad = random.choice((b"\xff", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"))
    return body[:place] + bad + body[place:]


def deep(random: Random, event: dict[str, Any]) -> bytes:
    """Deeper than any parser goes, closed or not."""
    depth = random.choice((20_000, 50_000))
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}")))
    closed = closing * depth if random.randrange(2) else b""
    return dumps(event)[:-1] + b', "deep": ' + opening * depth + closed + b"}"


def number(random: Random, event: dict[str, Any]) -> bytes:
    """An invalid number, or a number with more digits than Python reads."""
    bad = random.choice((b"NaN", b"Infinity", b"-Infinity", b"01", b"+1", b"1.", b".5", b"0x1", b"9" * 4_400, b"1_0"))
    return dumps(event)[:-1] + b', "amount": ' + bad + b"}"


def around_a_mebibyte(random: Random, event: dict[str, Any]) -> bytes:
    """Just within the bound, just above it, far above it."""
    return dumps(event).ljust(MEBIBYTE + random.choice((-1, 0, 0, 1, 70_000)))


BODIES: Final[Mapping[str, Callable[[Random, dict[str, Any]], bytes]]] = {
    "as it was": lambda _random, event: dumps(event),
    "odd event": odd_event,
    "edited": edited,
    "field": field,
    "not UTF-8": not_utf8,
    "deep": deep,
    "number": number,
    "other JSON": lambda random, _event: dumps(value(random, 3)),
    "binary": lambda random, _event: random.randbytes(random.randrange(300)),
    "around 1 MiB": around_a_mebibyte,
}
_WEIGHTS: Final = {"as it was": 100, "odd event": 200, "edited": 180, "field": 140, "deep": 4, "around 1 MiB": 1}
BODY_KINDS: Final = tuple(kind for kind in BODIES for _ in range(_WEIGHTS.get(kind, 40)))


# Signatures: each returns the header, or None for no header.


@dataclass(frozen=True, slots=True)
class Signing:
    """The material to sign: the sent bytes, and their source."""

    body: bytes
    original: bytes
    endpoint: str
    at: int

    def v1(self, secret: str, *, at: int | None = None, body: bytes | None = None) -> str:
        """The signature by the rule that Stripe publishes, without the SDK."""
        signed = f"{self.at if at is None else at}.".encode() + (self.body if body is None else body)
        return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()

    def header(self, secret: str, *, at: int | None = None, body: bytes | None = None) -> str:
        """The whole header."""
        return f"t={self.at if at is None else at},v1={self.v1(secret, at=at, body=body)}"

    def good(self, random: Random) -> str:
        """A correct header, by either secret."""
        return self.header(random.choice(ENDPOINTS[self.endpoint]))


def _wrong_secret(random: Random, signing: Signing) -> str:
    other = "/webhook" if signing.endpoint == "/webhook/thin" else "/webhook/thin"
    return signing.header(random.choice(("whsec_other", "x", "whsec_", *ENDPOINTS[other])))


def _other_time(random: Random, signing: Signing) -> str:
    off = random.choice((-290, 290, -310, 310, -86_400, 86_400, -signing.at, -signing.at - 1, 10**11, 10**20))
    return signing.header(random.choice(ENDPOINTS[signing.endpoint]), at=signing.at + off)


def _replayed(random: Random, signing: Signing) -> str:
    """Signed a day ago, with a new date: a replay by an eavesdropper."""
    return f"t={signing.at},v1={signing.v1(random.choice(ENDPOINTS[signing.endpoint]), at=signing.at - 86_400)}"


def _several(random: Random, signing: Signing) -> str:
    """The right signature among others, at any place, as while a secret is rolled; sometimes very many."""
    bad = random.choice(("v1=" + "0" * 64, "v0=ff", "v1=", "v2=x", "v1=" + "f" * 2_000, "x=y", "v1=abc"))
    others = [bad] * random.choice((1, 1, 1, 2, 2, 3, 3, 20))
    right = "v1=" + signing.v1(random.choice(ENDPOINTS[signing.endpoint]))
    others.insert(random.randrange(len(others) + 1), right)
    return f"t={signing.at}," + ",".join(others)


def _more(random: Random, signing: Signing) -> str:
    """The correct header with an undocumented item before or after it."""
    good = signing.good(random)
    extra = random.choice((f"t={signing.at}", "t=", "v1", "t", ",", "=", "t=1=2", "t=1", "é=1", f"t= {signing.at}"))
    return f"{extra},{good}" if random.randrange(2) else f"{good},{extra}"


def _form(random: Random, signing: Signing) -> str:
    """The correct words in another form."""
    good, v1 = signing.good(random), signing.v1(ENDPOINTS[signing.endpoint][0])
    turned = (
        good.replace("v1=", random.choice(("v0=", "v2=", "V1=", " v1=", "v1 =", "v1:"))),
        good.replace(",", random.choice((";", " , ", "", ",,", "\t,"))),
        good.replace("t=", random.choice(("T=", "t =", "time=", "t=0", "t=+", "t=1_", "t=\u0661"))),
        f"v1={v1},t={signing.at}",
        f"t={signing.at},v1={v1.upper()}",
        f"t={signing.at},v1={v1[:-1]}",
        f"t={signing.at},v1={v1}0",
        f"v1={v1}",
        f"t={signing.at}",
        v1,
    )
    return random.choice(turned)


def _edited_header(random: Random, signing: Signing) -> str:
    good = signing.good(random)
    place = random.randrange(len(good) + 1)
    return good[:place] + text(random) + good[place + random.randrange(3) :]


def _nonsense(random: Random, _signing: Signing) -> str:
    huge = random.choice(("t=1,", "v1=", ",", "9", "é", f"v1={'0' * 64},")) * random.choice((9, 9, 9, 9, 500))
    return random.choice((text(random), text(random), "t=,v1=", huge))


SIGNATURES: Final[Mapping[str, Callable[[Random, Signing], str | None]]] = {
    "right": lambda random, signing: signing.good(random),
    "several v1": _several,
    "of the body before": lambda random, signing: signing.header(
        random.choice(ENDPOINTS[signing.endpoint]), body=signing.original
    ),
    "wrong secret": _wrong_secret,
    "other time": _other_time,
    "dated anew": _replayed,
    "more items": _more,
    "other form": _form,
    "edited": _edited_header,
    "nonsense": _nonsense,
    "none": lambda random, _signing: random.choice((None, "")),
    "no secret": lambda _random, signing: signing.header(""),
}
SIGNATURE_KINDS: Final = (*SIGNATURES, *("right",) * 10, "several v1", "several v1", "of the body before", "other time")

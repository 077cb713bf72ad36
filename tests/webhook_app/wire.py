"""HTTP as bytes: well-formed requests, malformed requests, and the received answers.

`malformed` draws from the given `Random`, as tests/webhook_app/mutations.py does.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.webhook_app.mutations import Request

_FIELD: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    body: bytes

    @property
    def accepted(self) -> bool:
        """True if the answer accepts an event."""
        return self.status == 200 and self.body == b"accepted\n"


def may_be_sent(request: Request) -> bool:
    """True if HTTP has a form for it: its header values hold no control character."""
    return all(_FIELD.fullmatch(value) for value in request.headers.values())


def head_of(request: Request, *more: str) -> bytes:
    """The head without its end, with the framing of the body."""
    lines = [f"{request.method} {request.path} HTTP/1.1", "Host: receiver"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, *more]).encode("latin-1", "replace")


def framed(request: Request, *, chunk_bytes: int = 0) -> bytes:
    """The well-formed request: with its length, or in chunks of so many bytes."""
    if not chunk_bytes:
        return head_of(request, f"Content-Length: {len(request.body)}") + b"\r\n\r\n" + request.body
    pieces = [request.body[start : start + chunk_bytes] for start in range(0, len(request.body), chunk_bytes)]
    return head_of(request, "Transfer-Encoding: chunked") + b"\r\n\r\n" + chunked(pieces) + b"0\r\n\r\n"


def chunked(pieces: Sequence[bytes]) -> bytes:
    """Pieces as chunks, without the final empty one."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def parse(received: bytes, methods: Sequence[str]) -> tuple[list[Reply], bytes]:
    """Return the complete answers among the received bytes, to requests of these methods, and the rest."""
    replies: list[Reply] = []
    while True:
        head, end, rest = received.partition(b"\r\n\r\n")
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        if not end or found is None:
            return replies, received
        if found[1].startswith(b"1"):
            received = rest
            continue
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        if len(replies) < len(methods) and methods[len(replies)] == "HEAD":
            size = 0
        if len(rest) < size:
            return replies, received
        replies.append(Reply(int(found[1]), rest[:size]))
        received = rest[size:]


# Malformed requests


def _flipped(random: Random, request: Request) -> bytes:
    sent = bytearray(framed(request))
    for _ in range(random.randrange(1, 4)):
        place = random.randrange(len(sent))
        sent[place : place + random.randrange(3)] = random.randbytes(random.randrange(4))
    return bytes(sent)


def _lying_length(random: Random, request: Request) -> bytes:
    size = len(request.body)
    lies = (
        size - 1,
        size + 1,
        0,
        -1,
        f"+{size}",
        f"0{size}",
        f"{size:#x}",
        "9" * 30,
        "",
        " ",
        f"{size}, {size}",
        "\xb2",
    )
    lines = [f"Content-Length: {random.choice(lies)}"]
    if random.randrange(3) == 0:
        lines.append(f"Content-Length: {random.choice((size, size + 1, 5))}")
    return head_of(request, *lines) + b"\r\n\r\n" + request.body


def _bad_chunks(random: Random, request: Request) -> bytes:
    coding = random.choice(
        ("chunked", "chunked, chunked", "gzip, chunked", "chunked, gzip", "identity", "CHUNKED", "\tx")
    )
    more = random.choice(((), (f"Content-Length: {len(request.body)}",), ("Content-Length: 5",)))
    body = random.choice(
        (
            chunked([request.body]) + b"0\r\n\r\n",
            chunked([request.body]),
            b"-1\r\n" + request.body,
            b"ffffffffffffffffff\r\n" + request.body,
            b"%x;%s\r\n%s\r\n0\r\n\r\n" % (len(request.body), b"x" * random.choice((1, 20_000)), request.body),
            b"%x\n%s\n0\n\n" % (len(request.body), request.body),
            b"%x\r\n%s0\r\n\r\n" % (len(request.body), request.body),
            chunked([request.body]) + b"0\r\nX: y\r\nStripe-Signature: t=1\r\n\r\n",
            b"zz\r\n" + request.body,
            request.body,
        )
    )
    return head_of(request, f"Transfer-Encoding: {coding}", *more) + b"\r\n\r\n" + body


def _cut_off(random: Random, request: Request) -> bytes:
    sent = framed(request, chunk_bytes=random.choice((0, 20)))
    return sent[: random.randrange(len(sent))]


def _odd_fields(random: Random, request: Request) -> bytes:
    head = head_of(request, f"Content-Length: {len(request.body)}")
    odd = random.choice(
        (
            b"\r\n folded",
            b"\r\nX: a\x00b",
            b"\r\nno colon",
            b"\r\nStripe-Signature : t=1,v1=0",
            b"\r\nStripe-Signature: t=1,v1=0",
            b"\r\n: empty",
            b"\r\nX: " + b"y" * random.choice((8_000, 70_000, 500_000)),
            b"".join(b"\r\nX-%d: y" % number for number in range(random.choice((90, 110, 3_000)))),
            b"\nX: bare newline",
            b"\rX: bare return",
            b"\r\nHost: another",
            b"\r\nX: \xff\xfe",
            b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
            b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
            b"\r\nExpect: 100-continue",
            b"\r\nExpect: 500-please",
        )
    )
    return head + odd + b"\r\n\r\n" + request.body


def _odd_start(random: Random, request: Request) -> bytes:
    _, _, rest = framed(request).partition(b"\r\n")
    path = request.path.encode()
    start = random.choice(
        (
            b"POST %s HTTP/9.9" % path,
            b"POST %s HTTP/1.0" % path,
            b"POST %s" % path,
            b"POST  %s  HTTP/1.1" % path,
            b"POST http://receiver%s HTTP/1.1" % path,
            b"POST receiver:80 HTTP/1.1",
            b"POST * HTTP/1.1",
            b"POST %s?%s HTTP/1.1" % (path, b"x" * random.choice((5, 70_000))),
            b"POST %s#x HTTP/1.1" % path,
            b"POST /web%68ook HTTP/1.1",
            b"POST /\xff\xfe HTTP/1.1",
            b"POST /../webhook HTTP/1.1",
            b"P\x00ST %s HTTP/1.1" % path,
            b"%s %s HTTP/1.1" % (b"X" * random.choice((1, 9_000)), path),
            b"PRI * HTTP/2.0",
            b"CONNECT receiver:80 HTTP/1.1",
            b"\r\n\r\nPOST %s HTTP/1.1" % path,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        )
    )
    return start + b"\r\n" + rest


def _smuggled(random: Random, request: Request) -> bytes:
    """Two requests where a length and chunks, or two lengths, disagree about where the first ends."""
    inner = framed(request)
    length = random.choice((0, 4, len(inner)))
    lines = (
        f"Content-Length: {length}",
        random.choice(("Transfer-Encoding: chunked", f"Content-Length: {length + 1}")),
    )
    return head_of(request, *lines) + b"\r\n\r\n0\r\n\r\n" + inner


def _bytes(random: Random, _request: Request) -> bytes:
    return random.randbytes(random.randrange(1, 200)) + random.choice((b"", b"\r\n\r\n"))


MALFORMED: Final[Mapping[str, Callable[[Random, Request], bytes]]] = {
    "bytes changed": _flipped,
    "length lies": _lying_length,
    "bad chunks": _bad_chunks,
    "cut off": _cut_off,
    "odd fields": _odd_fields,
    "odd first line": _odd_start,
    "smuggled": _smuggled,
    "binary": _bytes,
}

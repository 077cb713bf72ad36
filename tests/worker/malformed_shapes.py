"""Messages as no sender of ours writes them: what whoever can write to the broker can put into a queue."""

import base64
import bz2
import json
import lzma
import pickle
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any, Final

TASK: Final = "maintenance.chaos_nap"
TRACED: Final = {"sentry-trace": "a1-b2-1", "headers": {"sentry-trace": "a1-b2-1", "baggage": "sentry-release=1"}}
"""Sentry and Datadog trace calls like this: custom headers get lost otherwise (celery/celery#4875)."""

BOMB_BYTES: Final = 300 << 20
GOOD: Final = frozenset(
    {"small gzip", "small bzip2", "protocol 1", "wrong charset", "no delivery info", "delivery tag an object"}
    | {"no delivery tag", "one delivery tag twice, 1", "one delivery tag twice, 2", "eta long ago"}
    | {"utf-8 body", "unknown header", "priority of 99", "no retries", "routing to nowhere", "published at nonsense"}
    | {"properties without routing", "published at no number", "headers of a tracing library"}
)
"""Odd, but a worker can make a call of it: it is done, by the mark of its name, or revoked where it has expired."""

EXPIRED: Final = frozenset({"expires long ago", "header expires in year 1"})


def make_envelope(
    mark: str = "good", *, headers: Mapping[str, Any] | None = None, properties: Any = None, **fields: Any
) -> dict[str, Any]:
    """Return an envelope as Celery sends it, with what is to be different; a field that is `...` is left out."""
    task_id = str(uuid.uuid4())
    body = json.dumps([[], {"mark": mark, "seconds": 0}, dict.fromkeys(("callbacks", "errbacks", "chain"))])
    whole: dict[str, Any] = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": _without_gaps(
            {
                "lang": "py",
                "task": TASK,
                "id": task_id,
                "shadow": None,
                "eta": None,
                "expires": None,
                "group": None,
                "group_index": None,
                "retries": 0,
                "timelimit": [None, None],
                "root_id": task_id,
                "parent_id": None,
                "argsrepr": "()",
                "kwargsrepr": "{}",
                "origin": "somebody@somewhere",
                "ignore_result": True,
                "stamped_headers": None,
                "stamps": {},
                "published_at": time.time(),
            }
            | dict(headers or {})
        ),
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "maintenance"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    if isinstance(properties, dict):
        whole["properties"] = _without_gaps(whole["properties"] | properties)
    elif properties is not None:
        whole["properties"] = properties
    return _without_gaps(whole | {name.replace("_", "-"): value for name, value in fields.items()})


def make_item(mark: str = "good", **different: Any) -> bytes:
    """Return such an envelope as it lies in the list."""
    return json.dumps(make_envelope(mark, **different)).encode()


@cache
def make_shapes() -> dict[str, bytes]:
    """Return all shapes by their names: of the list's item, the envelope, the body, the headers, compression."""
    return {
        **_items(),
        **{name: make_item(name, **different) for name, different in _envelopes().items()},
        **{f"body {name}": make_item(body=_encode(body)) for name, body in _bodies().items()},
        **{f"header {name}": make_item(name, headers=headers) for name, headers in _headers().items()},
        **_compressed(),
    }


def compress(body: bytes, codec: str, pack: Callable[[bytes], bytes]) -> bytes:
    """Return an item whose body is packed."""
    return make_item(body=base64.b64encode(pack(body)).decode(), headers={"compression": codec})


def _items() -> dict[str, bytes]:
    deep = b"[" * 100_000 + b"]" * 100_000
    good = make_item()
    return {
        "no JSON": b"this is no JSON",
        "an empty item": b"",
        "a number": b"17",
        "null": b"null",
        "an empty list": b"[]",
        "an empty object": b"{}",
        "a text": b'"words"',
        "bytes": bytes(range(256)),
        "nested 100,000 deep": deep,
        "objects nested 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a message cut short": good[:-20],
        "a message and more": good + b"{}",
        "UTF-16": good.decode().encode("utf-16-be"),
        "a byte order mark": b"\xef\xbb\xbf" + good,
        "a number of 5,000 digits": b'{"body": ' + b"9" * 5_000 + b"}",
        "pickle": pickle.dumps({"task": TASK}),
    }


def _envelopes() -> dict[str, dict[str, Any]]:
    return {
        "no properties": {"properties": ...},
        "properties a list": {"properties": [1]},
        "properties a text": {"properties": "words"},
        "no delivery info": {"properties": {"delivery_info": ...}},
        "delivery info a list": {"properties": {"delivery_info": [1]}},
        "delivery info a text": {"properties": {"delivery_info": "maintenance"}},
        "properties without routing": {"properties": {"delivery_info": {}}},
        "routing to nowhere": {"properties": {"delivery_info": {"exchange": "nowhere", "routing_key": "nowhere"}}},
        "no delivery tag": {"properties": {"delivery_tag": ...}},
        "delivery tag an object": {"properties": {"delivery_tag": {"a": 1}}},
        "one delivery tag twice, 1": {"properties": {"delivery_tag": "the same"}},
        "one delivery tag twice, 2": {"properties": {"delivery_tag": "the same"}},
        "unknown body encoding": {"properties": {"body_encoding": "rot13"}},
        "body encoding a number": {"properties": {"body_encoding": 64}},
        "utf-8 body": {"properties": {"body_encoding": "utf-8"}, "body": _call("utf-8 body").decode()},
        "priority a text": {"properties": {"priority": "high"}},
        "priority of 99": {"properties": {"priority": 99}},
        "priority infinite": {"properties": {"priority": float("inf")}},
        "delivery mode a text": {"properties": {"delivery_mode": "fast"}},
        "correlation id a list": {"properties": {"correlation_id": []}},
        "reply to an object": {"properties": {"reply_to": {"exchange": 1}}},
        "content type null": {"content_type": None},
        "content type absent": {"content_type": ...},
        "content type a number": {"content_type": 5},
        "binary data": {"content_type": "application/data", "content_encoding": "binary"},
        "plain text": {"content_type": "application/text"},
        "pickle by name": {"content_type": "application/x-python-serialize"},
        "yaml by name": {"content_type": "application/x-yaml"},
        "wrong charset": {"content_encoding": "klingon"},
        "charset a number": {"content_encoding": 8},
        "body absent": {"body": ...},
        "body null in the envelope": {"body": None},
        "body a list in the envelope": {"body": [1]},
        "body an object in the envelope": {"body": {}},
        "body empty": {"body": ""},
        "body no base64": {"body": "a"},
        "body odd base64": {"body": "!!!!"},
        "body of a lone surrogate": {"body": "\ud800", "properties": {"body_encoding": "utf-8"}},
    }


def _bodies() -> dict[str, bytes]:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    named = {"mark": "bad", "seconds": 0}
    bodies: dict[str, Any] = {
        "{}": {},
        "null": None,
        "[1]": [1],
        "[]": [],
        "a text": "words",
        "a number": 5,
        "four parts": [[], named, embed, 1],
        "args an object": [{}, named, embed],
        "args null": [None, named, embed],
        "kwargs a list": [[], [], embed],
        "kwargs null": [[], None, embed],
        "embed a number": [[], named, 5],
        "embed a list": [[], named, [1]],
        "callbacks a number": [[], named, embed | {"callbacks": 5}],
        "callbacks of numbers": [[], named, embed | {"callbacks": [5]}],
        "chord a text": [[], named, embed | {"chord": "x"}],
        "embed with an id": [[], named, embed | {"id": {}}],
        "embed with update": [[], named, embed | {"update": 5}],
        "a UUID that is none": [[], {"mark": {"__type__": "uuid", "__value__": 5}, "seconds": 0}, embed],
        "of 3,000,000 values": [[[0] * 3_000_000], named, embed],
    }
    made = {name: json.dumps(body).encode() for name, body in bodies.items()}
    return made | {"no JSON": b"{", "nested deep": b"[" * 50_000, "raw bytes": bytes(range(256))}


def _headers() -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {
        "id": {"an object": {}, "a list": [], "a number": 5, "empty": "", "null": None, "absent": ...},
        "task": {"an object": {}, "a list": [], "a number": 5, "empty": "", "null": None, "absent": ...},
        "timelimit": {
            "of texts": ["a", "b"],
            "a number": 5,
            "negative": [-1, -1],
            "of one": [1],
            "a text": "ab",
            "enormous": [1e300, 1e300],
            "no number": [float("nan"), None],
            "an object": {"a": 1, "b": 2},
        },
        "eta": {"nonsense": "tomorrow", "a number": 5, "a list": [], "in the year 9999": "9999-12-31T23:59:59+00:00"},
        "expires": {"nonsense": "never", "a number": 5, "an object": {}, "in year 1": "0001-01-01T00:00:00+14:00"},
        "retries": {"a text": "many", "negative": -1, "huge": 10**30, "null": None, "a fraction": 1.5},
        "shadow": {"an object": {"a": 1}},
        "root_id": {"an object": {}},
        "parent_id": {"a list": []},
        "group": {"an object": {}},
        "group_index": {"a text": "x"},
        "origin": {"a number": 5},
        "lang": {"a list": []},
        "argsrepr": {"an object": {}},
        "ignore_result": {"a text": "yes"},
        "stamped_headers": {"a number": 5},
        "stamps": {"a list": [1]},
        "compression": {"unknown": "klingon", "a number": 5, "of what is not packed": "gzip"},
        "called_directly": {"true": True},
        "update": {"a number": 5},
        "is_eager": {"true": True},
        "delivery_info": {"a number": 5},
        "headers": {"a number": 5, "with an id": {"id": "another"}, "with a method": {"update": 5}},
    }
    bad = {f"{name} {kind}": {name: value} for name, kinds in values.items() for kind, value in kinds.items()}
    long = {"id of 100,000 letters": {"id": "x" * 100_000}, "id with a line break": {"id": "a\nb"}}
    return bad | long | {"id of a surrogate": {"id": "\ud800"}}


def _compressed() -> dict[str, bytes]:
    bomb, small = zlib.compress(bytes(BOMB_BYTES)), _call("small gzip")
    nested = compress(zlib.compress(zlib.compress(bytes(50 << 20))), "gzip", lambda body: body)
    return {
        "gzip bomb": compress(bomb, "application/x-gzip", lambda body: body),
        "zlib bomb": compress(bomb, "zlib", lambda body: body),
        "bzip2 bomb": compress(bytes(100 << 20), "bzip2", bz2.compress),
        "lzma bomb": compress(bytes(100 << 20), "lzma", lambda body: lzma.compress(body, preset=0)),
        "lzma that wants much memory": compress(b"{}", "xz", lambda body: lzma.compress(body, preset=9)),
        "gzip in gzip": nested,
        "gzip cut short": compress(small, "gzip", lambda body: zlib.compress(body)[:-6]),
        "gzip with more behind": compress(small, "gzip", lambda body: zlib.compress(body) + b"more"),
        "zstd that is none": compress(small, "zstd", lambda body: body),
        "brotli that is none": compress(small, "brotli", lambda body: body),
        "bzip2 that is none": compress(small, "bzip2", lambda body: body),
        "lzma that is none": compress(small, "lzma", lambda body: body),
        "small gzip": compress(small, "gzip", zlib.compress),
        "small bzip2": compress(_call("small bzip2"), "bzip2", bz2.compress),
        "too large": make_item(body=_encode(json.dumps(["x" * (33 << 20)]).encode())),
        "protocol 1": json.dumps(_protocol_1()).encode(),
        "protocol 1 with a negative timelimit": json.dumps(_protocol_1(timelimit=[-1, -1])).encode(),
        "protocol 1 without an id": json.dumps(_protocol_1(id=None)).encode(),
        "expires long ago": make_item(headers={"expires": "2001-01-01T00:00:00+00:00"}),
        "eta long ago": make_item("eta long ago", headers={"eta": "2001-01-01T00:00:00+00:00"}),
        "headers of a tracing library": make_item("headers of a tracing library", headers=TRACED),
        "unknown header": make_item("unknown header", headers={"colour": {"red": [1]}}),
        "no retries": make_item("no retries", headers={"retries": ...}),
        "published at nonsense": make_item("published at nonsense", headers={"published_at": {}, "request_id": [1]}),
        "published at no number": make_item("published at no number", headers={"published_at": float("nan")}),
    }


def _call(mark: str) -> bytes:
    return json.dumps([[mark, 0], {}, None]).encode()


def _protocol_1(**different: Any) -> dict[str, Any]:
    call = {"task": TASK, "id": str(uuid.uuid4()), "args": [], "kwargs": {"mark": "protocol 1", "seconds": 0}}
    body = json.dumps(call | {"retries": 0, "eta": None, "expires": None, "utc": True} | different).encode()
    return make_envelope(body=_encode(body)) | {"headers": {}}


def _encode(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _without_gaps(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not ...}


def mutate(random: Random, mark: str) -> bytes:
    """Return an envelope with one to three things wrong in it, somewhere."""
    envelope = make_envelope(mark, headers={"ignore_result": random.random() < 0.5})
    body = json.loads(base64.b64decode(envelope["body"]))
    for _ in range(random.randint(1, 3)):
        _spoil(random, random.choice([envelope, envelope["headers"], envelope["properties"], body, body[1:2] or body]))
        if not all(isinstance(envelope.get(name), dict) for name in ("headers", "properties")) or not body:
            break
    if isinstance(envelope.get("body"), str) and random.random() < 0.8:
        envelope["body"] = _encode(json.dumps(body).encode())
    item = bytearray(json.dumps(envelope).encode())
    if random.random() < 0.2:
        for _ in range(random.randint(1, 4)):
            item[random.randrange(len(item))] = random.randrange(256)
    if random.random() < 0.1:
        del item[random.randrange(len(item)) :]
    return bytes(item)


def _spoil(random: Random, place: Any) -> None:
    keys = list(place) if isinstance(place, dict) else range(len(place))
    if not keys:
        return
    key = random.choice(list(keys))
    match random.randrange(4):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[random.choice(_ODD_NAMES)] = random.choice(_ODD)
        case _:
            place[key] = random.choice(_ODD)


_WORDS: Final = ["", "x", "\ud800", "\0", "1" * 5_000, "usage.get_balance", "2001-01-01", "application/json", "gzip"]
_NUMBERS: Final = [True, 0, -1, 1.5, 10**25, 1e308, float("nan")]
_ODD: Final[list[Any]] = [None, *_WORDS, *_NUMBERS, [], {}, [None], {"a": {}}, [[[]]], {"": []}]
_ODD_NAMES: Final = [
    "compression",
    "chord",
    "called_directly",
    "headers",
    "args",
    "kwargs",
    "clear",
    "__class__",
    "utc",
]

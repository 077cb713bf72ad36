"""The plain types of a request and a reply, and how JSON and decimals are written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, TypeAlias

# Wide enough that no product or sum of values within the bounds of `params` is ever rounded.
EXACT = Context(prec=100)
API_VERSION = "2026-10-28.endive"

# Stripe's objects are JSON of several hundred optional fields. A stand-in passes them through, so they stay JSON.
JsonObject: TypeAlias = dict[str, Any]
Form: TypeAlias = dict[str, "Form | str"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request; header names are lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer. It leaves after the pause; a dropped one never does: the connection is closed instead."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    pause_seconds: float = 0
    dropped: bool = False


def encode(body: JsonObject) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def plain(value: Decimal) -> str:
    """Write a decimal as Stripe does: no exponent, no trailing zeros."""
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"

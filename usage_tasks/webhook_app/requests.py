"""A request before its body has come, and an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

BODY_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known of a request before its body: `remote` is who it is counted for."""

    method: str
    path: str
    remote: str
    signature: str = ""
    content_length: str = ""

    @property
    def declares_too_much(self) -> bool:
        """Whether the length that is declared is no length, or above the bound."""
        declared = self.content_length
        if not declared:
            return False
        digits = declared.isascii() and declared.isdecimal()
        return not digits or len(declared) > len(str(BODY_BYTES_MAX)) or int(declared) > BODY_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is sent back; `outcome` is what the metric calls it."""

    status: HTTPStatus
    text: str
    outcome: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The text as it is sent."""
        return f"{self.text}\n".encode()

    def all_headers(self) -> list[tuple[str, str]]:
        """Every header, for either kind of server."""
        plain = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(self.body))}
        return [*plain.items(), *self.headers.items()]

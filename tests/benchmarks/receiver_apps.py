"""Applications to compare the receiver with, under the same server: an answer at once, and HMAC with one bare LPUSH."""

import hashlib
import hmac
import os
from functools import cache
from typing import Any

from redis import Redis

from tests.webhook_app.receiver import SECRETS

_HEADERS = [("content-type", "text/plain; charset=utf-8"), ("content-length", "9")]


class AtOnce:
    """Answers 200 and checks nothing but the body's last byte."""

    async def __rsgi__(self, _scope: Any, protocol: Any) -> None:
        await protocol()
        protocol.response_bytes(200, _HEADERS, b"accepted\n")


class Bare:
    """Computes one HMAC and pushes the body as it is."""

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        body = await protocol()
        at, _, given = scope.headers.get("stripe-signature").removeprefix("t=").partition(",v1=")
        computed = hmac.new(SECRETS[0].encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(computed, given)
        _redis().lpush("bare", body)
        protocol.response_bytes(200, _HEADERS, b"accepted\n")


@cache
def _redis() -> "Redis":
    return Redis.from_url(os.environ["RECEIVER_BROKER_URL"])


at_once, bare = AtOnce(), Bare()
"""For a server, by name."""

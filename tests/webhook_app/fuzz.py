"""`python -m tests.webhook_app.fuzz --count 1000000`: requests that nobody meant, against the receiver that is used.

Each request is an event that was signed, with its body, its headers, its signature, its path or its framing mutated by
Hypothesis. It goes through the real application, the adapter to the server included; the broker is not there, nor the
socket, which test_fuzz.py adds for some. Whatever comes: no answer of 500 or above, no exception, and nothing handed on
but a body that one of the endpoint's secrets has signed within five minutes, which an oracle of its own computes.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.webhook_app.conftest import make_event, make_thin_event
from tests.webhook_app.receiver import SECRETS, THIN_SECRETS
from usage_tasks.stripe_gateway.webhooks import VerifiedEvent
from usage_tasks.telemetry.logs import configure_logging
from usage_tasks.webhook_app.application import Application
from usage_tasks.webhook_app.receiver import Receiver, Secrets

SERVER_ERROR: Final = 500
ENDPOINTS: Final = {"/webhook": (SECRETS, make_event()), "/webhook/thin": (THIN_SECRETS, make_thin_event())}


@dataclass(slots=True)
class Witness:
    """A broker that takes everything and remembers the last thing."""

    taken: list[VerifiedEvent] = field(default_factory=list)

    def submit(self, event: VerifiedEvent) -> "Future[None]":
        self.taken.append(event)
        confirmed: Future[None] = Future()
        confirmed.set_result(None)
        return confirmed

    def is_reachable(self) -> bool:
        return True


class Unlimited:
    """Fuzzing is refused all the time, and goes on."""

    def seconds_left(self, _remote: str) -> int:
        return 0

    def count_refusal(self, _remote: str) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Scope:
    """A request as granian brings it."""

    proto: str
    method: str
    path: str
    client: str
    headers: "Headers"


class Headers(dict[str, str]):
    """Granian's headers: names are lower case."""


@dataclass(slots=True)
class Protocol:
    """The body in the pieces it comes in, and the answer."""

    pieces: list[bytes]
    status: int = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    def response_bytes(self, status: int, _headers: list[tuple[str, str]], _body: bytes) -> None:
        assert self.status == 0, "answered twice"
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One mutated request."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    pieces: list[bytes]


def sign_with(body: bytes, secret: str, at: int) -> str:
    """The signature by the rule that Stripe publishes, without the SDK."""
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


_text = st.text(st.characters(codec="latin-1"), max_size=40)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn, original: bytes) -> bytes:
    """The body of an event, whole, cut, overwritten, lengthened, rebuilt with odd fields, or something else."""
    kind = draw(st.sampled_from(["same"] * 6 + ["edit", "edit", "field", "field", "json", "binary"]))
    if kind == "same":
        return original
    if kind == "edit":
        place, cut = draw(st.integers(0, len(original))), draw(st.sampled_from([0, 1, len(original)]))
        return original[:place] + draw(st.binary(max_size=30)) + original[place + cut :]
    if kind == "field":
        event = json.loads(original)
        event[draw(st.sampled_from([*event, "new"]))] = draw(_json)
        return json.dumps(event).encode()
    return json.dumps(draw(_json)).encode() if kind == "json" else draw(st.binary(max_size=200))


@st.composite
def signatures(draw: st.DrawFn, body: bytes, original: bytes, secrets: tuple[str, ...]) -> str:
    """A header: right, of another body or secret or time, in another form, or nonsense."""
    now = int(time.time())
    offset = draw(st.sampled_from([0] * 6 + [-290, -310, 310, -now, -now - 1, 10**11, 10**20]))
    at = now + offset
    signed = draw(st.sampled_from([body] * 6 + [original]))
    secret = draw(st.sampled_from([*secrets * 3, "whsec_other", ""]))
    good = f"t={at},v1={sign_with(signed, secret or 'x', at)}"
    kind = draw(st.sampled_from(["good"] * 6 + ["edit", "more", "scheme", "text", "empty"]))
    place = draw(st.integers(0, len(good)))
    match kind:
        case "edit":
            return good[:place] + draw(_text) + good[place + 1 :]
        case "more":
            extra = draw(st.sampled_from([f"t={now}", "v1=00", "v0=ff", "t=", "v1", ",", "=", "t=1=2", "t=1"]))
            return draw(st.sampled_from([f"{extra},{good}", f"{good},{extra}"]))
        case "scheme":
            return good.replace("v1=", draw(st.sampled_from(["v0=", "v2=", "V1=", " v1=", "v1 ="])))
        case "text":
            return draw(_text)
        case "empty":
            return ""
    return good


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A mutated request."""
    endpoint = draw(st.sampled_from(list(ENDPOINTS)))
    secrets, original = ENDPOINTS[endpoint]
    body = draw(bodies(original))
    path = draw(
        st.sampled_from([endpoint] * 8 + ["/webhook/", "/", "/healthz", "/readyz", "//webhook", "/webhook/thin/"])
    )
    headers = {"stripe-signature": draw(signatures(body, original, secrets))}
    if draw(st.booleans()):
        headers["content-length"] = draw(st.sampled_from([str(len(body)), "0", "-1", "1e3", "9" * 30, "\u0663", ""]))
    if draw(st.booleans()):
        headers["x-forwarded-for"] = draw(_text)
    cut = draw(st.integers(0, len(body)))
    method = draw(st.sampled_from(["POST"] * 12 + ["GET", "PUT", "HEAD", "post", "", "OPTIONS"]))
    return Request(method=method, path=path, body=body, headers=headers, pieces=[body[:cut], body[cut:]])


def may_be_taken(request: Request) -> bool:
    """The oracle: whether any secret of the endpoint has signed this body at a time that the header states."""
    secrets, _ = ENDPOINTS.get(request.path, ((), b""))
    header = request.headers["stripe-signature"]
    items = [item.split("=") for item in header.split(",")]
    times = [item[1] for item in items if len(item) > 1 and item[0].strip() == "t"]
    given_signatures = {item[1] for item in items if len(item) > 1 and item[0].strip() == "v1"}
    return request.method == "POST" and any(
        sign_with(request.body, secret, int(at)) in given_signatures and abs(int(at) - time.time()) <= 300
        for secret in secrets
        for at in times
        if at.isascii() and at.isdecimal()
    )


class Fuzzed:
    """The application, and what was seen of it."""

    def __init__(self) -> None:
        self.witness, self.answers = Witness(), Counter[int]()
        self._loop = asyncio.new_event_loop()
        secrets = Secrets(snapshot=SECRETS, thin=THIN_SECRETS)
        self._app = Application(Receiver(secrets=secrets, publisher=self.witness, limiter=Unlimited()))

    def check(self, request: Request) -> None:
        """Send one request; AssertionError, or whatever was raised, where it is not answered as it must be."""
        self.witness.taken.clear()
        protocol = Protocol(list(request.pieces))
        scope = Scope("http", request.method, request.path, "192.0.2.1:5", Headers(request.headers))
        self._loop.run_until_complete(self._app.__rsgi__(scope, protocol))
        self.answers[protocol.status] += 1
        assert 200 <= protocol.status < SERVER_ERROR, protocol.status
        assert len(self.witness.taken) <= 1
        accepted = request.path in ENDPOINTS and protocol.status == 200
        assert accepted == bool(self.witness.taken)
        if accepted:
            assert may_be_taken(request), request
            assert self.witness.taken[0].body.encode() == request.body


def fuzz(count: int) -> Counter[int]:
    """Check so many requests; answer how many had which status."""
    fuzzed = Fuzzed()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def check(request: Request) -> None:
        fuzzed.check(request)

    check()
    return fuzzed.answers


def main(say: Callable[[str], Any] = lambda text: sys.stdout.write(text + "\n")) -> int:
    """Run so many, in rounds; print how many had which status."""
    parser = argparse.ArgumentParser(prog="python -m tests.webhook_app.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--round", type=int, default=50_000, help="Hypothesis remembers what it tried in a round")
    arguments = parser.parse_args()
    configure_logging("ERROR")
    answers, started, left = Counter[int](), time.monotonic(), arguments.count
    while left > 0:
        answers += fuzz(min(left, arguments.round))
        left -= arguments.round
        say(f"{sum(answers.values())} requests, {time.monotonic() - started:.0f} s: {dict(sorted(answers.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

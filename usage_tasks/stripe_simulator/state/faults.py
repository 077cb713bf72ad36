"""Faults on demand: which request fails and how, by header or by rule, and a record of every fault that fired.

A fault before the effect leaves no trace, not even of the idempotency key. After a fault that comes after the effect
the same key gets the stored reply: that is how a client finds out. Stripe also stores errors that come late in its own
work, and repeats them for a day: `error_kept` is such an error, with an effect or without.
"""

import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from random import Random

from usage_tasks.stripe_simulator.state.switches import SECONDS_MAX, checked, integer, is_integer, number, option
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import JsonObject, Reply, Request, encode

HEADER = "simulator-fault"
LOG_ENTRIES_MAX = 10_000
RULES_MAX = 100
_HANG_SECONDS = 90.0


class Kind(StrEnum):
    """The kind of a fault."""

    RATE_LIMITED = "rate_limited"
    LOCK_TIMEOUT = "lock_timeout"
    KEY_IN_USE = "key_in_use"
    SERVER_ERROR = "server_error"
    ERROR_KEPT = "error_kept"
    ERROR_KEPT_AFTER = "error_kept_after"
    CUT_BEFORE = "cut_before"
    HANG_BEFORE = "hang_before"
    CUT_AFTER = "cut_after"
    HANG_AFTER = "hang_after"
    SLOW = "slow"


_FAILED = (500, "api_error", None, "Something went wrong on our end: injected.")
_REFUSALS = {
    Kind.RATE_LIMITED: (429, "invalid_request_error", "rate_limit", "Too many requests: injected."),
    Kind.LOCK_TIMEOUT: (409, "invalid_request_error", "lock_timeout", "The object is locked: injected."),
    Kind.KEY_IN_USE: (409, "idempotency_error", "idempotency_key_in_use", "A request with this key runs: injected."),
    Kind.SERVER_ERROR: _FAILED,
    Kind.ERROR_KEPT: _FAILED,
    Kind.ERROR_KEPT_AFTER: _FAILED,
}
_KEPT = (Kind.ERROR_KEPT, Kind.ERROR_KEPT_AFTER)
_METHODS = ("GET", "POST", "DELETE", "*")
_BEFORE = (Kind.CUT_BEFORE, Kind.HANG_BEFORE)
_HANGS = (Kind.HANG_BEFORE, Kind.HANG_AFTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which requests fail, and how. The nth request that matches fails or not by the seed alone."""

    kind: str = option(default="", says=f"one of {', '.join(Kind)}", check=lambda value: value in list(Kind))
    method: str = option(default="*", says=f"one of {', '.join(_METHODS)}", check=lambda value: value in _METHODS)
    path: str = option(
        default="*", says="a pattern such as /v1/invoices/*", check=lambda v: isinstance(v, str) and v != ""
    )
    customer: str = option(default="", says="the id of a customer", check=lambda value: isinstance(value, str))
    """Named in the request's path or parameters; empty: any."""
    probability: float = number(1, 1)
    seed: int = integer(0, 0, 2**31)
    skip: int = integer(0, 0, 2**31)
    """So many matching requests pass first."""
    count: int | None = option(
        default=None,
        says="an integer from 1, or null",
        check=lambda value: value is None or is_integer(value, 1, 2**31),
    )
    """At most so many faults; null: no limit."""
    seconds: float | None = number(None, SECONDS_MAX)
    """rate_limited: Retry-After; slow: the delay; hang_*: how long until the connection is closed."""

    def matches(self, request: Request) -> bool:
        if self.method not in ("*", request.method) or not fnmatchcase(request.path, self.path):
            return False
        named = self.customer
        return not named or named in request.path or named in request.query or named.encode() in request.body


class _Active:
    """A rule at work."""

    def __init__(self, identifier: str, rule: Rule) -> None:
        self.identifier, self.rule = identifier, rule
        self.matched = self.injected = 0
        self._random = Random(rule.seed)

    def fires(self, request: Request) -> bool:
        rule = self.rule
        if (rule.count is not None and self.injected >= rule.count) or not rule.matches(request):
            return False
        self.matched += 1
        fires = self.matched > rule.skip and self._random.random() < rule.probability
        self.injected += fires
        return fires

    def shown(self) -> JsonObject:
        return {"id": self.identifier, **asdict(self.rule), "matched": self.matched, "injected": self.injected}


class Faults:
    """The rules in force and the record; safe to use from any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Active] = []
        self._made = 0
        self._log: deque[JsonObject] = deque(maxlen=LOG_ENTRIES_MAX)
        self._counts: Counter[str] = Counter()

    def add(self, body: object) -> JsonObject:
        """Put a rule in force; raises ValueError that names what is wrong with it."""
        rule = checked(Rule(), body)
        if not rule.kind:
            raise ValueError(f"kind must be one of {', '.join(Kind)}.")
        with self._lock:
            if len(self._rules) >= RULES_MAX:
                raise ValueError(f"At most {RULES_MAX} rules.")
            self._made += 1
            self._rules.append(_Active(f"rule_{self._made}", rule))
            return self._rules[-1].shown()

    def remove(self, identifier: str | None) -> bool:
        """Remove one rule, or all of them and the record; return True if there was one."""
        with self._lock:
            before = len(self._rules)
            self._rules = [] if identifier is None else [one for one in self._rules if one.identifier != identifier]
            if identifier is None:
                self._log.clear()
                self._counts.clear()
            return identifier is None or len(self._rules) < before

    def summary(self) -> JsonObject:
        with self._lock:
            rules = [one.shown() for one in self._rules]
            return {"rules": rules, "counts": dict(self._counts), "injected": list(self._log)}

    def around(
        self, request: Request, answer: Callable[[], Reply], *, request_id: str, keep: Callable[[Reply], None]
    ) -> Reply:
        """Return a request, unless a fault comes first or takes the answer away; `keep` stores one under its key."""
        chosen = self._choose(request)
        if chosen is None:
            return answer()
        source, rule = chosen
        reply, effect_status = _faulty(rule, answer)
        if rule.kind in _KEPT:
            keep(reply)
        entry = {"kind": rule.kind, "source": source, "request_id": request_id, "method": request.method}
        key = request.headers.get("idempotency-key")
        with self._lock:
            self._counts[rule.kind] += 1
            self._log.append({**entry, "path": request.path, "idempotency_key": key, "effect_status": effect_status})
        return reply

    def _choose(self, request: Request) -> tuple[str, Rule] | None:
        asked = request.headers.get(HEADER)
        if asked is not None:
            return "header", _from_header(asked)
        if not self._rules:
            return None
        with self._lock:
            return next(((one.identifier, one.rule) for one in self._rules if one.fires(request)), None)


def _from_header(text: str) -> Rule:
    """`hang_after; seconds=3`: a kind, and how long."""
    kind, _, rest = text.partition(";")
    name, _, value = rest.strip().partition("=")
    try:
        options = {"kind": kind.strip()} | ({name.strip(): float(value)} if rest else {})
        return checked(Rule(), options)
    except ValueError as error:
        raise ApiError(f"Invalid header {HEADER}: {error}") from error


def _faulty(rule: Rule, answer: Callable[[], Reply]) -> tuple[Reply, int | None]:
    """Return the client's reply (perhaps none), and the status of the real outcome (None: there was no effect)."""
    kind = Kind(rule.kind)
    if kind in _REFUSALS:
        status, error_type, code, message = _REFUSALS[kind]
        body = ApiError(message, kind=error_type, code=code).body
        seconds = 1 if rule.seconds is None else math.ceil(rule.seconds)
        headers = (("Retry-After", str(seconds)),) if kind is Kind.RATE_LIMITED else ()
        effect = answer().status if kind is Kind.ERROR_KEPT_AFTER else None
        return Reply(status=status, body=encode(body), headers=headers), effect
    if kind is Kind.SLOW:
        reply = answer()
        return replace(reply, pause_seconds=1.0 if rule.seconds is None else rule.seconds), reply.status
    hang_seconds = _HANG_SECONDS if rule.seconds is None else rule.seconds
    nothing = Reply(status=500, body=b"", dropped=True, pause_seconds=hang_seconds if kind in _HANGS else 0)
    return nothing, None if kind in _BEFORE else answer().status

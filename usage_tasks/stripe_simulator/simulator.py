"""One simulator: its state, its clock, its courier, and what it answers to a request."""

import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from urllib.parse import unquote

from usage_tasks.stripe_simulator.operations.operation import Call, Operation
from usage_tasks.stripe_simulator.operations.routes import find
from usage_tasks.stripe_simulator.shapes.replies import expand
from usage_tasks.stripe_simulator.state.courier import Courier
from usage_tasks.stripe_simulator.state.faults import Faults
from usage_tasks.stripe_simulator.state.store import Store
from usage_tasks.stripe_simulator.state.switches import Mail, Searching, Switches, checked
from usage_tasks.stripe_simulator.state.world import GLOBAL_CLOCK, THIN_EVENT, World
from usage_tasks.stripe_simulator.time.billing import run_due
from usage_tasks.stripe_simulator.wire import forms, params
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import API_VERSION, Form, Reply, Request, encode

_KEYS = ("sk_test_", "rk_test_")
_REPLAYED = ("Idempotent-Replayed", "true")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the state lives, where time stands at first (None: the real time), and where webhooks go."""

    state: str = ":memory:"
    frozen_time: int | None = None
    webhook_url: str | None = None
    webhook_secret: str = ""
    thin_webhook_url: str | None = None
    thin_webhook_secret: str = ""
    search_lag_seconds: int = 0


class Simulator:
    """Answers requests; safe to call from any number of threads."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store(settings.state)
        self.switches = Switches(
            mail=Mail(
                secrets=(settings.webhook_secret,),
                thin_secrets=(settings.thin_webhook_secret or settings.webhook_secret,),
            ),
            searching=checked(Searching(), {"lag_seconds": settings.search_lag_seconds}),
        )
        self.faults = Faults()
        self._closing = threading.Event()
        self._endpoints = frozenset(
            kind
            for kind, url in (("event", settings.webhook_url), (THIN_EVENT, settings.thin_webhook_url))
            if url is not None
        )
        self.courier = Courier(
            self.store,
            self.switches,
            urls={"event": settings.webhook_url, THIN_EVENT: settings.thin_webhook_url},
        )
        self.frozen = self._set_up_clock(settings.frozen_time)

    def start(self) -> None:
        """Begin to deliver webhooks. Deliveries that an earlier process left come first."""
        self.courier.start()

    def close(self) -> None:
        self._closing.set()
        self.courier.stop()
        self.store.close()

    def answer(self, request: Request) -> Reply:
        """Return a request to the API; errors are replies too."""
        request_id = f"req_{secrets.token_hex(7)}"
        headers = (("Request-Id", request_id), ("Stripe-Version", API_VERSION))
        try:
            reply = self.faults.around(
                request,
                lambda: self._answered(request, request_id),
                request_id=request_id,
                keep=lambda reply: self._keep(request, reply),
            )
        except ApiError as error:
            reply = _error_reply(error)
        date = (("Date", formatdate(self._shown_at(), usegmt=True)),)
        return replace(reply, headers=headers + date + reply.headers)

    def pause(self, seconds: float) -> None:
        """Let an answer wait, though no longer than the simulator lives."""
        if seconds > 0:
            self._closing.wait(seconds)

    @contextmanager
    def world(self, *, request_id: str | None = None, idempotency_key: str | None = None) -> Iterator[World]:
        """The state, inside one transaction; the courier hears of it once it is committed."""
        with self.store.transaction():
            yield World(
                store=self.store,
                endpoints=self._endpoints,
                switches=self.switches,
                request_id=request_id,
                idempotency_key=idempotency_key,
            )
        self.courier.wake()

    def advance(self, until: int | None = None) -> int:
        """Do what is due on the common clock, by `until` or by now; return the time that it shows then.

        Others may be answered in between: a long jump is many transactions.
        """
        done = False
        while not done:
            with self.world() as world:
                done = run_due(world, GLOBAL_CLOCK, until=world.now() if until is None else until)
                at = world.now()
        return at

    def _shown_at(self) -> float:
        """Return the time of the common clock, as Stripe's answers show Stripe's."""
        if not self.frozen:
            return time.time()
        with self.store.transaction():
            row = self.store.row("SELECT frozen_time FROM clock WHERE id = ''")
        return time.time() if row is None else float(row[0])

    def _set_up_clock(self, frozen_time: int | None) -> bool:
        with self.store.transaction():
            sql = "INSERT INTO clock (id, frozen_time) VALUES ('', :at) ON CONFLICT (id) DO NOTHING"
            self.store.execute(sql, at=frozen_time)
            row = self.store.row("SELECT frozen_time FROM clock WHERE id = ''")
        frozen = row is not None and row[0] is not None
        if frozen_time is not None and not frozen:
            raise ValueError("the state file follows the real clock: it can't be frozen")
        return frozen

    def _answered(self, request: Request, request_id: str) -> Reply:
        try:
            return self._answer(request, request_id)
        except ApiError as error:
            return _error_reply(error)

    def _keep(self, request: Request, reply: Reply) -> None:
        """Store a reply under the request's key, replacing an earlier one."""
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        if key:
            with self.world() as world:
                world.store.execute("DELETE FROM idempotency WHERE key = :key", key=key)
                _remember(world, key, _fingerprint(request, _form(request)), reply)

    def _answer(self, request: Request, request_id: str) -> Reply:
        _authenticate(request)
        operation, subject = find(request.method, request.path)
        form = _form(request)
        call_params = params.read(form, operation.spec)
        if not self.frozen:
            self.advance()
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        fingerprint = _fingerprint(request, form)
        try:
            with self.world(request_id=request_id, idempotency_key=key) as world:
                if key and (stored := _replay(world, key, fingerprint)):
                    return stored
                call = Call(world=world, params=call_params, path=request.path, subject=unquote(subject))
                reply = _perform(operation, call)
                if key:
                    _remember(world, key, fingerprint, reply)
                return reply
        except ApiError as error:
            reply = _error_reply(error)
            if key and error.body["error"]["type"] != "idempotency_error":
                with self.world() as world:
                    _remember(world, key, fingerprint, reply)
            return reply


def _authenticate(request: Request) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or not key.startswith(_KEYS):
        message = "Invalid API Key provided: the simulator takes any key that starts with sk_test_ or rk_test_."
        raise ApiError(message, status=401)


def _form(request: Request) -> Form:
    """The parameters of a request: a DELETE has them in the query, and may have them in the body."""
    try:
        body = request.body.decode()
    except UnicodeDecodeError as error:
        raise ApiError("Invalid form body: not UTF-8.") from error
    return forms.decode("&".join(part for part in (request.query, body) if part))


def _perform(operation: Operation, call: Call) -> Reply:
    body = operation.handle(call)
    if isinstance(body, ApiError):
        return _error_reply(body)
    body = expand(call.world, body, call.params.get("expand") or ())
    return Reply(status=200, body=encode(body))


def _error_reply(error: ApiError) -> Reply:
    return Reply(status=error.status, body=encode(error.body), headers=(("Stripe-Should-Retry", "false"),))


def _fingerprint(request: Request, form: Form) -> str:
    content = encode(
        {"method": request.method, "path": request.path, "form": sorted(form.items(), key=lambda kv: kv[0])}
    )
    return hashlib.sha256(content).hexdigest()


def _replay(world: World, key: str, fingerprint: str) -> Reply | None:
    row = world.store.row("SELECT fingerprint, status, body FROM idempotency WHERE key = :key", key=key)
    if row is None:
        return None
    if row[0] != fingerprint:
        message = f"Keys for idempotent requests can only be used with the same parameters as before: '{key}'."
        raise ApiError(message, kind="idempotency_error")
    return Reply(status=row[1], body=row[2], headers=(_REPLAYED,))


def _remember(world: World, key: str, fingerprint: str, reply: Reply) -> None:
    world.store.execute(
        "INSERT INTO idempotency (key, fingerprint, status, body, at) VALUES (:key, :fingerprint, :status, :body, :at)"
        " ON CONFLICT (key) DO NOTHING",
        key=key,
        fingerprint=fingerprint,
        status=reply.status,
        body=reply.body,
        at=world.now(),
    )

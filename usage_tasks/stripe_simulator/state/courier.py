"""The delivery of webhooks: one thread, one event at a time, in the order they happened unless switched otherwise.

A failed delivery is tried again after growing pauses. With a window of one, later events wait behind it. With a wider
window they overtake it, and each other.
"""

import hashlib
import hmac
import http.client
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

from usage_tasks.stripe_simulator.state.store import Store
from usage_tasks.stripe_simulator.state.switches import Mail, Switches
from usage_tasks.stripe_simulator.state.world import THIN_EVENT
from usage_tasks.stripe_simulator.wire.wire import JsonObject, encode

TRIES_MAX = 50
PAUSE_FIRST_SECONDS = 0.1
PAUSE_MAX_SECONDS = 5.0
TIMEOUT_SECONDS = 10.0
STOP_SECONDS = 1.0
_OK = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A delivery that is pending: how often it was tried, and the event."""

    seq: int
    tries: int
    event: JsonObject


def sign(body: bytes, secrets: Sequence[str], *, at: int) -> str:
    """The Stripe-Signature header of a body, with a signature by each secret.

    `at` is the real time, which receivers compare with their own.
    """
    content = f"{at}.".encode() + body
    digests = (hmac.new(secret.encode(), content, hashlib.sha256).hexdigest() for secret in secrets)
    return ",".join((f"t={at}", *(f"v1={digest}" for digest in digests)))


class Courier:
    """Sends what is pending to the endpoint of its type; without endpoints it does nothing."""

    def __init__(self, store: Store, switches: Switches, *, urls: Mapping[str, str | None]) -> None:
        self._store, self._switches = store, switches
        self._targets = {kind: urlsplit(url) for kind, url in urls.items() if url is not None}
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._ready_at: dict[int, float] = {}
        self._random = Random(0)

    def start(self) -> None:
        if self._targets:
            self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
            self._thread.start()

    def change(self, mail: Mail) -> None:
        """Deliver in another way from now on. The random sequence starts again from the seed."""
        with self._store.transaction():
            self._switches.mail = mail
            self._random.seed(mail.seed)
            self._switches.twins.seed(mail.seed)
            self._ready_at.clear()
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """Stop within a second, also in the middle of a request: what wasn't settled stays pending."""
        self._stopping.set()
        self._wake.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def summary(self) -> JsonObject:
        """How many deliveries there are by state, and the newest error."""
        with self._store.transaction():
            counts = dict(self._store.rows("SELECT state, count(*) FROM delivery GROUP BY state"))
            row = self._store.row("SELECT error FROM delivery WHERE error IS NOT NULL ORDER BY seq DESC LIMIT 1")
        states = {state: counts.get(state, 0) for state in ("pending", "delivered", "failed")}
        return {**states, "last_error": None if row is None else row[0]}

    def replay(self, event: str) -> bool:
        """Send an event again, after the pending ones. Return True if the event exists."""
        with self._store.transaction():
            found = self._find(event)
            deliverable = found is not None and found["object"] in self._targets
            if deliverable:
                self._store.execute("INSERT INTO delivery (event) VALUES (:event)", event=event)
        self.wake()
        return deliverable

    def _find(self, event: str) -> JsonObject | None:
        return self._store.find("event", event) or self._store.find(THIN_EVENT, event)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            parcel, wait_seconds = self._next()
            if parcel is None:
                self._wake.wait(wait_seconds)
                continue
            error = self._send(parcel.event)
            if not self._stopping.is_set():
                self._settle(parcel, error)

    def _next(self) -> tuple[Parcel | None, float | None]:
        """The delivery to make now; or none, and how long until there is one (None: until something happens)."""
        sql = "SELECT seq, tries, event FROM delivery WHERE state = 'pending' ORDER BY seq LIMIT :window"
        with self._store.transaction():
            mail, now = self._switches.mail, time.monotonic()
            if mail.tried_seconds is not None:
                self._give_up(mail.tried_seconds)
            rows = [] if mail.paused else self._store.rows(sql, window=mail.window)
            for seq, _tries, _event in rows:
                if seq not in self._ready_at:
                    wait = self._random.uniform(0, mail.delay_seconds) if mail.delay_seconds else 0
                    self._ready_at[seq] = now + wait
            ready = [row for row in rows if self._ready_at[row[0]] <= now]
            if not ready:
                return None, min((self._ready_at[row[0]] - now for row in rows), default=None)
            seq, tries, identifier = ready[0] if mail.window == 1 else self._random.choice(ready)
            event = self._find(identifier)
        return (None, None) if event is None else (Parcel(seq=seq, tries=tries, event=event), None)

    def _give_up(self, tried_seconds: int) -> None:
        """Stop trying events that happened too long ago; thin events are tried on."""
        shown = self._store.row("SELECT frozen_time FROM clock WHERE id = ''")
        at = int(time.time()) if shown is None or shown[0] is None else int(shown[0])
        sql = (
            "UPDATE delivery SET state = 'failed', error = 'given up' WHERE state = 'pending'"
            " AND event IN (SELECT id FROM object WHERE type = 'event' AND created < :oldest)"
        )
        self._store.execute(sql, oldest=at - tried_seconds)

    def _send(self, event: JsonObject) -> str | None:
        """Try once; return the problem, or None."""
        target, thin, mail = self._targets[event["object"]], event["object"] == THIN_EVENT, self._switches.mail
        # The object of a thin event is fetched, not sent.
        body = encode({name: value for name, value in event.items() if name != "data"} if thin else event)
        signature = sign(body, mail.thin_secrets if thin else mail.secrets, at=int(time.time()))
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}
        secure = target.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(target.hostname or "", target.port, timeout=TIMEOUT_SECONDS)
        self._connection = connection
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        try:
            connection.request("POST", path, body=body, headers=headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self._connection = None
            connection.close()
        return None if status in _OK else f"HTTP {status}"

    def _settle(self, parcel: Parcel, error: str | None) -> None:
        tries = parcel.tries + 1
        state = "delivered" if error is None else "failed" if tries >= TRIES_MAX else "pending"
        sql = "UPDATE delivery SET state = :state, tries = :tries, error = coalesce(:error, error) WHERE seq = :seq"
        with self._store.transaction():
            self._store.execute(sql, state=state, tries=tries, error=error, seq=parcel.seq)
            if state == "pending":
                pause = min(PAUSE_MAX_SECONDS, PAUSE_FIRST_SECONDS * 2 ** min(parcel.tries, 10))
                self._ready_at[parcel.seq] = time.monotonic() + pause
                return
            self._ready_at.pop(parcel.seq, None)
            if parcel.event["object"] == "event":
                self._store.put({**parcel.event, "pending_webhooks": 0})
            duplicate = self._switches.mail.duplicate
            if error is None and duplicate and self._random.random() < duplicate:
                self._store.execute("INSERT INTO delivery (event) VALUES (:event)", event=parcel.event["id"])

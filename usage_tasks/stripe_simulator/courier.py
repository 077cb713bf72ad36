"""The delivery of webhooks: one thread, one event at a time, in the order they happened."""

import hashlib
import hmac
import http.client
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from usage_tasks.stripe_simulator.store import Store
from usage_tasks.stripe_simulator.wire import JsonObject, encode

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


def sign(body: bytes, secret: str, *, at: int) -> str:
    """The Stripe-Signature header of a body; `at` is the real time, which receivers compare with their own."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Courier:
    """Sends what is pending, oldest first; without a URL it does nothing."""

    def __init__(self, store: Store, *, url: str | None, secret: str) -> None:
        self._store, self._secret = store, secret
        self._target = None if url is None else urlsplit(url)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: http.client.HTTPConnection | None = None

    def start(self) -> None:
        if self._target is not None:
            arguments = (self._target,)
            self._thread = threading.Thread(target=self._run, args=arguments, name="courier", daemon=True)
            self._thread.start()

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
        """Send an event once more, after those that are pending; answer whether there is one."""
        with self._store.transaction():
            found = self._store.find("event", event) is not None and self._target is not None
            if found:
                self._store.execute("INSERT INTO delivery (event) VALUES (:event)", event=event)
        self.wake()
        return found

    def _run(self, target: SplitResult) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            parcel = self._oldest()
            if parcel is None:
                self._wake.wait()
                continue
            error = self._send(target, parcel.event)
            if self._stopping.is_set():
                return
            self._settle(parcel, error)
            if error is not None:
                self._stopping.wait(min(PAUSE_MAX_SECONDS, PAUSE_FIRST_SECONDS * 2 ** min(parcel.tries, 10)))

    def _oldest(self) -> Parcel | None:
        sql = "SELECT seq, tries, event FROM delivery WHERE state = 'pending' ORDER BY seq LIMIT 1"
        with self._store.transaction():
            row = self._store.row(sql)
            event = None if row is None else self._store.find("event", row[2])
        return None if row is None or event is None else Parcel(seq=row[0], tries=row[1], event=event)

    def _send(self, target: SplitResult, event: JsonObject) -> str | None:
        """Try once; answer what went wrong."""
        body = encode(event)
        signature = sign(body, self._secret, at=int(time.time()))
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
            if state != "pending":
                self._store.put({**parcel.event, "pending_webhooks": 0})

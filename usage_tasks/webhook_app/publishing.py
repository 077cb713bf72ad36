"""The way to the broker: one thread, one connection; events that wait meanwhile go in one batch.

A sender gets 200 only after the broker has answered the batch that held its event.
"""

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

import structlog
from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import KombuError

from usage_tasks.coordination.celery_internals.broker_keys import read_key
from usage_tasks.coordination.celery_internals.message import publish_arguments
from usage_tasks.domain.errors import RetryableError
from usage_tasks.stripe_gateway.webhooks import VerifiedEvent
from usage_tasks.telemetry.headers import stamp
from usage_tasks.webhook_app.configuration import RECEIVE_TASK, Broker

BATCH_MAX: Final = 100
WAITING_MAX: Final = 2_000
ANSWER_SECONDS_MAX: Final = 5.0
"""How long a sender waits for the broker's word. Stripe itself waits some seconds longer, and then comes again."""
# A broker that is a black hole costs the time to connect and one silence.
BROKER_TIMEOUTS: Final = {"socket_connect_timeout": 1, "socket_timeout": 2}
PAUSE_SECONDS: Final = 1.0
"""After a failure no other try is made for this long: every waiting event would wait for that time again."""


_SHOWN_MAX: Final = 120

log = structlog.get_logger(__name__)


class BrokerAwayError(RetryableError):
    """The broker did not confirm the message in time; the sender must come again."""


class ForeignBrokerError(BrokerAwayError):
    """The Redis belongs to another installation than `installation` names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    event: VerifiedEvent
    confirmed: "Future[None]" = field(default_factory=Future)


class Publisher:
    """Hands events to the broker. Its thread starts with the first event, after any fork; one thread may submit."""

    def __init__(self, broker: Broker, *, installation: str | None = None) -> None:
        self._broker, self._installation = broker, installation
        exchange = Exchange(broker.exchange)
        self._target = Queue(broker.queue, exchange, routing_key=broker.routing_key)
        self._queue: queue.Queue[_Waiting] = queue.Queue(WAITING_MAX)
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._paused_until = 0.0
        transport = Connection(broker.url).transport
        self._errors: tuple[type[BaseException], ...] = (
            KombuError,
            OSError,
            *transport.connection_errors,
            *transport.channel_errors,
        )

    def submit(self, event: VerifiedEvent) -> "Future[None]":
        """Take an event along; the future is done when the broker has it, or fails with BrokerAwayError."""
        waiting = _Waiting(event=event)
        if time.monotonic() < self._paused_until:
            waiting.confirmed.set_exception(BrokerAwayError("a moment ago"))
            return waiting.confirmed
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            waiting.confirmed.set_exception(BrokerAwayError(f"{WAITING_MAX} events wait for it"))
            return waiting.confirmed
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
            self._thread.start()
        return waiting.confirmed

    def is_reachable(self) -> bool:
        """Whether the broker answers now, on a connection of its own and within its time-outs."""
        if time.monotonic() < self._paused_until:
            return False
        try:
            with self._connect() as connection:
                self._check_installation(connection)
        except BrokerAwayError:
            return False
        except self._errors:
            return False
        return True

    def _run(self) -> None:
        while True:
            self._settle([self._queue.get(), *self._take(BATCH_MAX - 1)])

    def _take(self, limit: int) -> Sequence[_Waiting]:
        taken: list[_Waiting] = []
        while len(taken) < limit:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return taken

    def _settle(self, batch: Sequence[_Waiting]) -> None:
        # A cancelled one has no waiting sender any more: Stripe comes again.
        wanted = [each for each in batch if each.confirmed.set_running_or_notify_cancel()]
        if not wanted:
            return
        failure: BaseException | None = BrokerAwayError("publisher ended")
        try:
            if time.monotonic() < self._paused_until:
                raise BrokerAwayError("a moment ago")
            self._publish([each.event for each in wanted])
            failure = None
        except BrokerAwayError as error:
            failure = error
        finally:
            for each in wanted:
                if failure is None:
                    each.confirmed.set_result(None)
                else:
                    each.confirmed.set_exception(failure)

    def _publish(self, events: Sequence[VerifiedEvent]) -> None:
        """Publish events in one batch; again if a connection that had worked is found dead."""
        had_worked = self._producer is not None
        for last in (not had_worked, True):
            try:
                self._publish_once(events)
            except self._errors as error:
                self._drop()
                # A silence is no dead connection: to try again would be to wait again.
                if last or isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
                    self._paused_until = time.monotonic() + PAUSE_SECONDS
                    raise BrokerAwayError(type(error.__cause__ or error).__name__) from error
            else:
                return

    def _publish_once(self, events: Sequence[VerifiedEvent]) -> None:
        if self._producer is None:
            self._connection = self._connect()
            self._producer = Producer(self._connection)
        self._check_installation(self._connection)
        with self._producer.batch(len(events)):  # type: ignore[attr-defined]  # the stubs are older than kombu 5.7
            for event in events:
                message = publish_arguments(
                    RECEIVE_TASK,
                    event.event_id,
                    {"event_id": event.event_id, "payload": event.body},
                    queue=self._target,
                    shown={"event_id": event.event_id},  # and no payload: monitors show headers
                )
                stamp(message["headers"])  # as every message of ours, for the age of the queue
                self._producer.publish(**message)

    def _check_installation(self, connection: Connection | None) -> None:
        """Raise ForeignBrokerError if the Redis holds another id than the settings; a flushed one holds none."""
        if self._installation is None or connection is None:
            return
        held = read_key(connection, "installation")
        if held is not None and held.partition("@")[0] != self._installation:
            log.error("webhook.foreign_redis", wanted=self._installation, found=held[:_SHOWN_MAX])
            raise ForeignBrokerError("the Redis belongs to another installation")

    def _connect(self) -> Connection:
        """Connect once: a broker that is away is known to be so at once."""
        options = {**self._broker.transport_options, **BROKER_TIMEOUTS}
        connection = Connection(self._broker.url, ssl=self._broker.use_ssl, transport_options=options)
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, reraise_as_library_errors=False)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.collect(socket_timeout=0.1)
        self._connection = self._producer = None

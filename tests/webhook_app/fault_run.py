"""`python -m tests.webhook_app.fault_run`: events at a steady rate while the servers behind the receiver are killed.

Real servers, a real receiver, a real worker. The simulator holds a number of finalized invoices and a list of events,
every tenth of them about one of the invoices, so that many distinct events report the same fact. Each event is sent as
Stripe would send it: signed, and again until the answer is 200. Meanwhile the worker is killed twice, the broker
restarted once and the database once. At the end every event must be in the inbox and applied, and each invoice in the
ledger once. stripe.backfill_events finds the events that a killed worker or broker lost, and the run counts them.
"""

import argparse
import http.client
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Lock, local
from typing import Any, Final

import psycopg
from celery import Celery

from tests.conftest import PRICES
from tests.factories import HOUR, SYSTEM, team
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE, KEY, StripeWorld, stripe_world
from tests.warm.start import launch
from tests.webhook_app.conftest import sign
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.embedded.postgres import running_postgres
from usage_tasks.embedded.processes import child_process, free_port, scratch_directory
from usage_tasks.embedded.redis import running_redis
from usage_tasks.runtime import Runtime
from usage_tasks.services.inbox.apply_events import LEASE
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.settings import load_settings
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.pricing.prices import publish_prices
from usage_tasks.telemetry.logs import configure_logging

SECRET: Final = "whsec_fault_run"
FINALIZED: Final = add_months(BEGIN, 1) + GRACE
SETTLE_SECONDS_MAX: Final = 900
SENDERS: Final = 32
FAULTS: Final = ((0.2, "worker"), (0.4, "broker"), (0.6, "database"), (0.8, "worker"))
_OK: Final = 200


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The results of the run; `whole` is the verdict."""

    events: int
    seconds_sending: float = 0
    seconds_in_all: float = 0
    answers: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    in_inbox: int = 0
    applied: int = 0
    found_by_backfill: int = 0
    invoices: int = 0
    invoice_entries: int = 0
    worker_starts: int = 0
    verify_clean: bool = False

    @property
    def whole(self) -> bool:
        """Every event in the inbox and applied, each invoice booked once, no invariant broken."""
        applied = self.in_inbox == self.applied == self.events
        return applied and self.invoice_entries == self.invoices and self.verify_clean


@dataclass(slots=True, kw_only=True)
class Installation:
    """Servers that can be taken away and brought back on the same ports, a receiver, and one worker."""

    directory: Path
    world: StripeWorld
    stack: ExitStack
    broker_port: int = field(default_factory=free_port)
    database_port: int = field(default_factory=free_port)
    receiver_port: int = field(default_factory=free_port)
    worker_starts: int = 0
    worker_began_at: float = 0
    _running: dict[str, ExitStack] = field(default_factory=dict)
    _worker: Any = None

    @property
    def database_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.database_port}/usage"

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.broker_port}/0"

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("USAGE_", "STRIPE_"))}
        prices = json.dumps(self.world.price_by_currency)
        return inherited | {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": json.dumps(dict.fromkeys(PRICES, 1)),
            "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
            "USAGE_TEST_CLOCK": "true",
            "USAGE_STRIPE_API_BASE": self.world.url,
            "USAGE_STRIPE_PRICES": f'{{"teamUsagePriceIds": {prices}, "individualUsagePriceIds": {prices}}}',
            "USAGE_SERVER__PORT": str(self.receiver_port),
            "STRIPE_SECRET_KEY": KEY,
            "STRIPE_WEBHOOK_SECRET": SECRET,
        }

    def start(self, what: str) -> None:
        stack = ExitStack()
        match what:
            case "broker":
                stack.enter_context(running_redis(self.directory / "redis", os.environ, ports=lambda: self.broker_port))
            case "database":
                stack.enter_context(
                    running_postgres(self.directory / "postgres", os.environ, ports=lambda: self.database_port)
                )
            case "worker":
                self.worker_began_at = time.time()
                self._worker = stack.enter_context(self._worker_process())
                self.worker_starts += 1
            case _:
                stack.enter_context(self._receiver_process())
        self._running[what] = self.stack.enter_context(stack)

    def stop(self, what: str) -> None:
        self._running.pop(what).close()

    def kill_worker(self) -> None:
        self._worker.kill()
        self.stop("worker")

    def watch_worker(self) -> None:
        """Act as a supervisor: start the worker again after its end."""
        if self._worker.poll() is not None:
            self.stop("worker")
            self.start("worker")

    def _worker_process(self) -> Any:
        command = [sys.executable, "-m", "celery", "-A", "usage_tasks", "worker", "-Q", "stripe"]
        command += ["--pool=threads", "--concurrency=8", "--without-mingle", "--without-gossip", "--loglevel=WARNING"]
        log = self.directory / "worker.log"
        environment = self.environment()
        return child_process(
            command, name="worker", log=log, environment=environment, stop_seconds_max=5, launcher=launch
        )

    def _receiver_process(self) -> Any:
        command = [sys.executable, "-m", "usage_tasks.webhook_app", "127.0.0.1", str(self.receiver_port)]
        return child_process(
            command,
            name="receiver",
            log=self.directory / "receiver.log",
            environment=self.environment(),
            ready=lambda: _answers(self.receiver_port),
        )


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == _OK
    except OSError:
        return False
    finally:
        connection.close()


class Sender:
    """Sends events as Stripe does: again until each is answered with 200. A connection a thread."""

    def __init__(self, port: int) -> None:
        self._port, self._local = port, local()
        self.answers: Counter[str] = Counter()
        self.started = 0
        self._counting = Lock()

    def send(self, body: bytes) -> None:
        with self._counting:
            self.started += 1
        while True:
            status = self._try(body)
            with self._counting:
                self.answers[status] += 1
            if status == str(_OK):
                return
            time.sleep(0.5)

    def _try(self, body: bytes) -> str:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
        try:
            connection.request("POST", "/webhook", body=body, headers={"Stripe-Signature": sign(body, secret=SECRET)})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return type(error).__name__
        return str(answer.status)


@contextmanager
def installed(directory: Path) -> Iterator[Installation]:
    """Everything but the worker runs; the clock stands at the end of a billed month."""
    with ExitStack() as stack:
        world = stack.enter_context(stripe_world(BEGIN))
        installation = Installation(directory=directory, world=world, stack=stack)
        for what in ("broker", "database", "receiver"):
            installation.start(what)
        settings = load_settings(installation.environment())
        migrate.upgrade(settings.sqlalchemy_url)
        TestClock(Runtime(settings).redis).advance(FINALIZED + HOUR)
        yield installation


def bill(installation: Installation, database: Database, invoices: int) -> list[str]:
    """Let so many accounts end a month in an invoice whose events have not arrived; return the invoices' ids."""
    world = installation.world
    bench = Bench(database=database, world=world, stripe=world.gateway())
    with database.transaction() as connection:
        publish_prices(connection, PRICES, at=BEGIN - timedelta(days=40), actor=SYSTEM)
    accounts = [team(f"fault {number}") for number in range(invoices)]
    for account in accounts:
        bench.pay(account)
    for account in accounts:
        bench.use(account, "12.35", until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    world.advance(FINALIZED)
    return [
        str(invoice.id)
        for invoice in world.invoices()
        if invoice.status_transitions.finalized_at == int(FINALIZED.timestamp())
    ]


def make_events(world: StripeWorld, invoice_ids: list[str], count: int) -> list[bytes]:
    """Put so many events on Stripe's list, one in ten of a finalized invoice; return them in their sent form."""
    at = int(FINALIZED.timestamp())
    with world.server.simulator.world() as inside:
        for number in range(count):
            if number % 10:
                inside.emit("something.happened", {"id": f"thing_{number}", "object": "thing"}, at=at)
            else:
                invoice = inside.get("invoice", invoice_ids[number // 10 % len(invoice_ids)])
                inside.emit("invoice.finalized", invoice, at=at)
        held = list(inside.store.scan("event"))[:count]
    return [json.dumps(event).encode() for event in held]


def run(events: int, rate: int, invoices: int, directory: Path, *, say: Callable[[str], None]) -> Outcome:
    """Do the whole run once."""
    outcome = Outcome(events=events)
    with installed(directory) as installation:
        database = Database(load_settings(installation.environment()).sqlalchemy_url)
        invoice_ids = bill(installation, database, invoices)
        database.dispose()
        outcome.invoices = len(invoice_ids)
        bodies = make_events(installation.world, invoice_ids, events)
        installation.start("worker")
        say(f"{len(bodies)} events, {len(invoice_ids)} invoices; sending {rate} a second")
        started = time.monotonic()
        _send(installation, bodies, rate, outcome, say=say)
        outcome.seconds_sending = round(time.monotonic() - started, 1)
        _settle(installation, outcome, ids=[json.loads(body)["id"] for body in bodies])
        outcome.seconds_in_all = round(time.monotonic() - started, 1)
        outcome.worker_starts = installation.worker_starts
    return outcome


def _send(
    installation: Installation, bodies: list[bytes], rate: int, outcome: Outcome, *, say: Callable[[str], None]
) -> None:
    faults = [(int(share * len(bodies)), what) for share, what in FAULTS]
    sender = Sender(installation.receiver_port)
    with ThreadPoolExecutor(SENDERS) as pool, ThreadPoolExecutor(1) as pacer:

        def pace() -> None:
            started = time.monotonic()
            for number, body in enumerate(bodies):
                time.sleep(max(0.0, started + number / rate - time.monotonic()))
                pool.submit(sender.send, body)

        # Faults run in this thread: a child ends with the thread that started it.
        pacing = pacer.submit(pace)
        while not pacing.done() or faults:
            if faults and sender.started >= faults[0][0]:
                _fail(installation, faults.pop(0)[1], outcome, say)
            time.sleep(0.05)
        pacing.result()
    outcome.answers = dict(sorted(sender.answers.items()))


def _fail(installation: Installation, what: str, outcome: Outcome, say: Callable[[str], None]) -> None:
    say(f"taking away: {what}")
    if what == "worker":
        installation.kill_worker()
    else:
        installation.stop(what)
        time.sleep(1)
    installation.start(what)
    outcome.faults.append(what)


def _settle(installation: Installation, outcome: Outcome, *, ids: list[str]) -> None:
    """Tick as beat does, faster, until nothing is missing or pending; then look."""
    celery_app = Celery("fault run", broker=installation.redis_url, set_as_current=False)
    celery_app.conf.broker_transport_options = {"global_keyprefix": "usage:"}
    celery_app.conf.task_routes = {"stripe.*": {"queue": "stripe"}}
    query = """
        SELECT count(*), count(*) FILTER (WHERE state = 'applied'), count(*) FILTER (WHERE source = 'backfill')
        FROM stripe_event WHERE event_id = ANY (%s)
    """
    # A killed worker's events wait for the end of its lease. The run ends it, for nobody holds it any more.
    ended = "UPDATE stripe_event SET claimed_until = NULL WHERE claimed_until - %s <= to_timestamp(%s)"
    give_up_at = time.monotonic() + SETTLE_SECONDS_MAX
    while time.monotonic() < give_up_at:
        installation.watch_worker()
        for name in ("stripe.backfill_events", "stripe.apply_events"):
            celery_app.send_task(name, ignore_result=True)
        with psycopg.connect(installation.database_url) as connection:
            connection.execute(ended, (LEASE, installation.worker_began_at))
            found = connection.execute(query, (ids,)).fetchone() or (0, 0, 0)
        outcome.in_inbox, outcome.applied, outcome.found_by_backfill = found
        if outcome.applied == outcome.events:
            break
        time.sleep(2)
    database = Database(load_settings(installation.environment()).sqlalchemy_url)
    with database.transaction() as connection:
        outcome.verify_clean = verify(connection, at=FINALIZED + HOUR).clean
    database.dispose()
    with psycopg.connect(installation.database_url) as counted:
        entries = counted.execute("SELECT count(*) FROM ledger_entry WHERE kind = 'invoice' AND credit_cents <> 0")
        outcome.invoice_entries = int((entries.fetchone() or (0,))[0])


def main() -> int:
    """Print the outcome as JSON; return 1 if anything is missing or doubled."""
    parser = argparse.ArgumentParser(prog="python -m tests.webhook_app.fault_run", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=500, help="events a second")
    parser.add_argument("--invoices", type=int, default=50)
    arguments = parser.parse_args()
    configure_logging("WARNING")
    with scratch_directory("usage-faults-") as directory:
        outcome = run(
            arguments.events,
            arguments.rate,
            arguments.invoices,
            directory,
            say=lambda text: print(text, file=sys.stderr, flush=True),  # noqa: T201
        )
    told = {name: getattr(outcome, name) for name in Outcome.__slots__} | {"whole": outcome.whole}
    print(json.dumps(told, indent=2))  # noqa: T201
    return 0 if outcome.whole else 1


if __name__ == "__main__":
    sys.exit(main())

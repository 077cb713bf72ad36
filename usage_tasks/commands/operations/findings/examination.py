"""Look at every area, the peers side by side, each for a bounded time: one thing that is away hides no other."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from usage_tasks.commands.operations.findings import (
    broker,
    clocks,
    configuration,
    database,
    installation,
    jobs,
    messages,
    processes,
    secrets,
    set_aside,
    stripe,
)
from usage_tasks.commands.operations.findings.finding import (
    DoctorFinding,
    Examination,
    Findings,
    Verdict,
    describe_error,
    fine,
    wrong,
)
from usage_tasks.domain.errors import UsageError
from usage_tasks.runtime import Runtime
from usage_tasks.settings import SettingsError, load_settings
from usage_tasks.storage.engine import Database

PATIENCE: Final = timedelta(seconds=10)
"""For everything that is asked of one peer; the peers are asked side by side."""
STATEMENT_PATIENCE: Final = timedelta(seconds=4)

_AWAY: Final = (UsageError, SettingsError, RedisError, OperationalError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The questions to one peer. Unless the first area ends with all fine, the others are not asked."""

    name: str
    areas: Sequence[Callable[[Examination], Findings]]
    verdict: Verdict
    advice: str


# A new check is a function of an area's module, and a name in one of these lists.
PEERS: Final = (
    Peer(
        name="database",
        areas=(
            database.ask_database,
            database.look_at_connections,
            database.look_at_prices,
            jobs.look_at_jobs,
            set_aside.look_at_set_aside,
            set_aside.look_at_stuck,
            stripe.look_at_stored,
            secrets.look_at_secrets,
        ),
        verdict=Verdict.WRONG,
        advice="Start it, or correct database.url or DATABASE_URL; `usage-tasks settings` prints what is in force.",
    ),
    Peer(
        name="broker",
        areas=(
            broker.ask_broker,
            broker.look_at_broker,
            installation.look_at_installation,
            messages.look_at_messages,
            messages.look_at_queues,
        ),
        verdict=Verdict.WRONG,
        advice="Start it, or correct redis or REDIS_URL; `usage-tasks settings` prints what is in force.",
    ),
    Peer(
        name="stripe",
        areas=(stripe.ask_stripe,),
        verdict=Verdict.LOOK,
        advice="Run `usage-tasks check-stripe` once Stripe can be reached.",
    ),
)


def examine(environ: Mapping[str, str]) -> Findings:
    """Look everything over; end within PATIENCE and a second."""
    try:
        settings = load_settings(environ)
    except SettingsError as error:
        yield wrong("settings", describe_error(error), "Correct what is named; `usage-tasks settings` checks them.")
        return
    yield fine("settings", "complete")
    it = Examination(rt=Runtime(settings), environ=environ)
    it.rt.database = Database(settings.sqlalchemy_url, statement_timeout=STATEMENT_PATIENCE)  # whatever its schema is
    try:
        looks = [_Look(peer, it) for peer in PEERS]
        yield from configuration.look_at_configuration(it)
        give_up_at = time.monotonic() + PATIENCE.total_seconds()
        for each in looks:
            yield from each.list_findings(give_up_at)
        yield from clocks.look_at_clocks(it)
        yield from processes.look_at_processes(it)
    finally:
        it.rt.database.dispose()


class _Look:
    """A peer that is asked in a thread of its own, which a peer that never answers cannot hold up."""

    def __init__(self, peer: Peer, it: Examination) -> None:
        self._peer = peer
        self._found: queue.SimpleQueue[DoctorFinding | Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._ask, args=(it,), name=f"doctor {peer.name}", daemon=True).start()

    def list_findings(self, give_up_at: float) -> Findings:
        """Return what is found until it is done, or until an instant of the monotonic clock."""
        while True:
            try:
                found = self._found.get(timeout=max(0.0, give_up_at - time.monotonic()))
            except queue.Empty:
                yield self._away(f"no answer within {PATIENCE.total_seconds():.0f} s")
                return
            if found is None:
                return
            if isinstance(found, Exception):
                raise found
            yield found

    def _ask(self, it: Examination) -> None:
        try:
            for finding in self._list(it):
                self._found.put(finding)
            self._found.put(None)
        except Exception as error:  # noqa: BLE001 - raised again by `list_findings`, in the thread of the command
            self._found.put(error)

    def _list(self, it: Examination) -> Findings:
        for number, look in enumerate(self._peer.areas):
            right = True
            try:
                for finding in look(it):
                    right = right and finding.verdict is Verdict.FINE
                    yield finding
            except _AWAY as error:
                right = False
                yield self._away(f"cannot be asked: {describe_error(error)}")
            if number == 0 and not right:
                return

    def _away(self, found: str) -> DoctorFinding:
        return DoctorFinding(check=self._peer.name, verdict=self._peer.verdict, found=found, advice=self._peer.advice)

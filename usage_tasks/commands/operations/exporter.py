"""`usage-tasks exporter`: the waiting messages and rows, for Prometheus, read at each scrape."""

import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Final

import typer
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from usage_tasks.coordination.broker_clock import read_redis_clock
from usage_tasks.coordination.celery_internals.queues import read_queues
from usage_tasks.coordination.dead_letters import count_dead_letters
from usage_tasks.coordination.unreadable_messages import count_unreadable
from usage_tasks.coordination.waiting_messages import count_waiting
from usage_tasks.domain.errors import RetryableError
from usage_tasks.listening import translated
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.operations.job_standings import list_job_standings
from usage_tasks.storage.operations import jobs
from usage_tasks.storage.operations.backlog import read_backlog
from usage_tasks.telemetry.clocks import CLOCKS
from usage_tasks.telemetry.logs import configure_logging

QUEUES: Final = ("usage", "billing", "stripe", "directory", "maintenance", "server")


class BacklogCollector(Collector):
    """Reads the broker and the database; unreadable parts are left out, and `usage_exporter_up` shows it."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    def describe(self) -> list[Metric]:
        """Nothing is read before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        self._readings: dict[str, float] = {}
        up = GaugeMetricFamily("usage_exporter_up", "1 where the part could be read.", labels=["part"])
        for part, read, away in (("broker", self._broker, RedisError), ("database", self._database, RetryableError)):
            try:
                yield from list(read())
                up.add_metric([part], 1)
            except away:
                up.add_metric([part], 0)
        yield up
        skew = GaugeMetricFamily(
            "usage_clock_skew_seconds", "By how much a peer's clock is ahead of this host's.", labels=["peer"]
        )
        for peer, ahead in self._readings.items():
            skew.add_metric([peer], ahead)
        yield skew
        CLOCKS.report()

    def _broker(self) -> Iterator[Metric]:
        self._readings["redis"] = CLOCKS.ask("redis", lambda: read_redis_clock(self._rt.redis)).ahead
        depth = GaugeMetricFamily("usage_queue_depth_messages", "Messages that wait.", labels=["queue"])
        age = GaugeMetricFamily(
            "usage_queue_oldest_message_age_seconds", "Since the oldest message was sent; 0 of none.", labels=["queue"]
        )
        states, unacked = read_queues(self._rt.redis, QUEUES)
        now = time.time()
        for state in states:
            depth.add_metric([state.queue], state.depth)
            if state.oldest_published_at is not None or not state.depth:
                age.add_metric([state.queue], max(0.0, now - (state.oldest_published_at or now)))
        yield depth
        yield age
        yield GaugeMetricFamily(
            "usage_unacknowledged_messages", "Messages that a worker has taken and not finished.", value=unacked
        )
        yield GaugeMetricFamily(
            "usage_poison_messages",
            "Messages that were set aside: they killed their workers, failed for good, or could not be read.",
            value=count_dead_letters(self._rt.redis) + count_unreadable(self._rt.redis),
        )
        yield GaugeMetricFamily(
            "usage_unreadable_messages",
            "Messages that no worker could read, and that were set aside; the latest 1,000 are kept.",
            value=count_unreadable(self._rt.redis),
        )
        yield GaugeMetricFamily(
            "usage_waiting_messages",
            "Messages that wait for a worker of a newer version.",
            value=count_waiting(self._rt.redis),
        )

    def _database(self) -> Iterator[Metric]:
        self._readings["database"] = CLOCKS.ask("database", lambda: self._rt.database.read_clock().timestamp()).ahead
        now = self._rt.now()
        with self._rt.transaction() as connection:
            yield _set_back(jobs.find_set_back(connection, list(self._rt.settings.job_schedules)))
            waits = read_backlog(connection, at=now)
            standings = list_job_standings(connection, self._rt.settings.job_schedules, at=now)
        lag = GaugeMetricFamily("usage_job_lag_seconds", "How long a due time has waited.", labels=["job"])
        future = GaugeMetricFamily(
            "usage_job_slot_of_the_future", "1 if a clock that was ahead took a slot of the job.", labels=["job"]
        )
        took = GaugeMetricFamily("usage_job_last_duration_seconds", "How long the last run took.", labels=["job"])
        for each in standings:
            lag.add_metric([each.job], each.lag_seconds)
            future.add_metric([each.job], each.future_slot is not None)
            if each.duration_seconds is not None:
                took.add_metric([each.job], each.duration_seconds)
        yield lag
        yield future
        yield took
        parked = GaugeMetricFamily("usage_parked_rows", "Rows set aside until somebody looks.", labels=["what"])
        pending = GaugeMetricFamily("usage_pending_rows", "Rows that wait for a task.", labels=["what"])
        for family, what, count in (
            (parked, "stripe_event", waits.events_parked),
            (parked, "meter_report", waits.reports_parked),
            (parked, "account", waits.accounts_parked),
            (parked, "quarantined_report", waits.quarantined),
            (pending, "stripe_event", waits.events_pending),
            (pending, "meter_report", waits.reports_pending),
            (pending, "announcement", waits.outbox_pending),
            (pending, "unposted_session", waits.unposted),
        ):
            family.add_metric([what], count)
        yield parked
        yield pending
        unbilled = GaugeMetricFamily(
            "usage_unbilled_seconds", "Time of sessions that is not in the ledger yet.", labels=["state"]
        )
        unbilled.add_metric(["stopped"], waits.unposted_seconds)
        unbilled.add_metric(["running"], waits.running_seconds)
        yield unbilled
        yield GaugeMetricFamily(
            "usage_inbox_oldest_event_age_seconds",
            "Since the oldest event that is not applied was stored; 0 of none.",
            value=0 if waits.event_oldest_at is None else max(0.0, time.time() - waits.event_oldest_at.timestamp()),
        )
        yield GaugeMetricFamily(
            "usage_unposted_oldest_age_seconds",
            "Since the oldest session stopped that is not in the ledger; 0 of none.",
            value=max(timedelta(0), now - (waits.unposted_oldest_at or now)).total_seconds(),
        )
        if waits.ledger_done_at is not None:
            done = waits.ledger_done_at.timestamp()
            yield GaugeMetricFamily(
                "usage_ledger_done_timestamp_seconds", "When the ledger job last ended well.", value=done
            )


def _set_back(ahead: timedelta) -> Metric:
    return GaugeMetricFamily(
        "usage_database_clock_set_back_seconds",
        "By how much the database's clock shows less than when a job last began; 0 if not.",
        value=ahead.total_seconds(),
    )


def registry_of(rt: Runtime) -> CollectorRegistry:
    """Return a registry that holds the exporter's metrics alone."""
    registry = CollectorRegistry()
    registry.register(BacklogCollector(rt))
    return registry


def exporter(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9818,
    address: Annotated[str, typer.Option()] = "127.0.0.1",
) -> None:
    """Show Prometheus what waits in the broker and the tables, on /metrics; one for an installation is enough."""
    configure_logging(os.environ.get("USAGE_LOG_LEVEL", "INFO"))
    with translated("--address and --port", address, port):
        start_http_server(port, addr=address, registry=registry_of(runtime()))
    threading.Event().wait()

"""Each fault of docs/doctor.md is planted in an installation that is fine, and named in the words of that table."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy.engine import make_url

from tests.commands import tree
from tests.commands.doctor.conftest import Installation
from tests.commands.doctor.messages import send_aged
from tests.commands.doctor.page import FAULTS, to_see_to
from tests.database_clock import shift_database_clock
from tests.factories import START, SYSTEM, make_id, team
from usage_tasks.coordination import dead_letters, waiting_messages
from usage_tasks.domain.sessions import Rejection
from usage_tasks.embedded.processes import free_port
from usage_tasks.storage.sessions.quarantine import quarantine

Plant = Callable[[Installation], None]
PLANTS: dict[str, Plant] = {}
BESIDE: Final = {
    "plain connection to Redis": {"broker"},  # nobody is at that name
    "database away": {"clocks"},
    "clock set back": {"clocks"},
    "clock apart from the others": {"billing.sync", "stripe.backfill_events", "usage.reconcile"},  # late by that clock
}
"""Checks of which a fault changes more lines than one."""


def plants(fault: str) -> Callable[[Plant], Plant]:
    """Register what plants a fault."""

    def register(plant: Plant) -> Plant:
        PLANTS[fault] = plant
        return plant

    return register


@plants("settings cannot be used")
def _(it: Installation) -> None:
    it.set("USAGE_RESET_USAGE_SCHEDULE", "soon")


@plants("unknown variable")
def _(it: Installation) -> None:
    it.set("USAGE_CONTROLER_SCHEDULE", "15m")


@plants("secrets file readable by others")
def _(it: Installation) -> None:
    it.credentials.chmod(0o644)


@plants("directory key file readable by others")
def _(it: Installation) -> None:
    key = it.directory / "directory.key"
    key.write_text("k" * 64)
    key.chmod(0o644)
    it.set("USAGE_DIRECTORY_KEY_FILE", str(key))


@plants("live key beside a stand-in")
def _(it: Installation) -> None:
    it.credentials.write_text(json.dumps({"secretKey": "sk_live_not_a_key", "webhookKey": "whsec_not_a_key"}))
    it.set("USAGE_STRIPE_API_BASE", f"http://127.0.0.1:{free_port()}")


@plants("key of another kind")
def _(it: Installation) -> None:
    it.credentials.write_text(json.dumps({"secretKey": "pk_not_a_key", "webhookKey": "whsec_not_a_key"}))


@plants("Stripe key missing")
def _(it: Installation) -> None:
    it.credentials.write_text(json.dumps({"webhookKey": "whsec_not_a_key"}))


@plants("webhook secret missing")
def _(it: Installation) -> None:
    _use_prices(it)
    it.credentials.write_text(json.dumps({"secretKey": "sk_test_simulator"}))


@plants("directory key missing")
def _(it: Installation) -> None:
    it.sql(
        "INSERT INTO directory_user (user_id, email_digest, administrator, deleted, observed_at, actor)"
        " VALUES (:id, repeat('a', 64), false, false, now(), 'service:tests')",
        id=make_id("user"),
    )


@plants("directory key unusable")
def _(it: Installation) -> None:
    it.set("USAGE_DIRECTORY_KEY", "short")


@plants("plain connection to the database")
def _(it: Installation) -> None:
    url = make_url(it.rt.settings.database_url)
    place = {"host": "db.example.com", "hostaddr": url.host or "127.0.0.1", "port": str(url.port)}
    far = url.set(host=None, port=None).update_query_dict(place)
    it.set("DATABASE_URL", far.render_as_string(hide_password=False))


@plants("plain connection to Redis")
def _(it: Installation) -> None:
    it.set("REDIS_URL", "redis://redis.example.com:6379/0")


@plants("metrics without a directory")
def _(it: Installation) -> None:
    it.set("USAGE_METRICS_PORT", "9100")


@plants("metrics directory not writable")
def _(it: Installation) -> None:
    it.set("USAGE_METRICS_PORT", "9100")
    it.set("PROMETHEUS_MULTIPROC_DIR", str(it.credentials))  # a file: also root cannot write into it


@plants("database away")
def _(it: Installation) -> None:
    url = make_url(it.rt.settings.database_url).set(port=free_port())
    it.set("DATABASE_URL", url.render_as_string(hide_password=False))


@plants("schema older")
def _(it: Installation) -> None:
    it.sql("UPDATE alembic_version SET version_num = '0001'")


@plants("schema newer and incompatible")
def _(it: Installation) -> None:
    it.sql("UPDATE alembic_version SET version_num = '9999'")
    it.sql("COMMENT ON TABLE alembic_version IS 'compatible_from=9999'")


@plants("connections of the database nearly used up")
def _(it: Installation) -> None:
    it.sql(f"ALTER DATABASE {make_url(it.rt.settings.database_url).database} CONNECTION LIMIT 2")
    holder = it.rt.transaction()
    holder.__enter__()
    it.request.addfinalizer(lambda: holder.__exit__(None, None, None))


@plants("price not in force")
def _(it: Installation) -> None:
    prices = '{"small": 0.1, "medium": 0.2, "large": 0.6, "xlarge": 1}'
    it.set("USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS", prices)


RUN: Final = """
    INSERT INTO job_run (job, slot, started_at, finished_at, attempts, outcome, summary)
    SELECT CAST(:job AS text), date_bin('15 minutes', clock_timestamp(), '2000-01-01Z') + CAST(:ahead AS interval),
           clock_timestamp() - interval '1 minute', clock_timestamp(), :attempts, :outcome, CAST(:summary AS jsonb)
    ON CONFLICT (job, slot) DO UPDATE SET attempts = EXCLUDED.attempts, outcome = EXCLUDED.outcome
"""


def _run(it: Installation, job: str, **columns: object) -> None:
    it.sql("DELETE FROM job_run WHERE job = :job", job=job)
    columns = {"ahead": timedelta(0), "attempts": 1, "outcome": "done", "summary": None} | columns
    it.sql(RUN, job=job, **columns)


@plants("job overdue")
def _(it: Installation) -> None:
    _run(it, "usage.reconcile", ahead=-timedelta(hours=1))


@plants("job failing again and again")
def _(it: Installation) -> None:
    _run(it, "usage.reconcile")  # else it were overdue, some minutes after each quarter of an hour
    it.sql(RUN, job="usage.reconcile", ahead=timedelta(seconds=1), attempts=3, outcome="failed", summary=None)


@plants("invariant broken")
def _(it: Installation) -> None:
    _run(it, "maintenance.verify", ahead=-timedelta(days=2), attempts=7, outcome="failed")


@plants("run of the future")
def _(it: Installation) -> None:
    it.sql(RUN, job="usage.reconcile", ahead=timedelta(days=90), attempts=1, outcome="done", summary=None)


@plants("clock set back")
def _(it: Installation) -> None:
    _run(it, "usage.reconcile")
    it.sql("UPDATE job_run SET started_at = clock_timestamp() + interval '1 hour' WHERE job = 'usage.reconcile'")


@plants("clock apart from the others")
def _(it: Installation) -> None:
    shift_database_clock(it.rt, timedelta(hours=1))


@plants("accounts astray")
def _(it: Installation) -> None:
    _run(it, "billing.drift_report", summary='{"accounts": 9, "astray": {"lost": 2, "owed": 1}}')


def _customer(it: Installation, **columns: object) -> None:
    it.sql(
        "INSERT INTO stripe_customer (attribution_id, stripe_customer_id, currency, billing_creator_user_id,"
        " idempotency_key, parked_at, parked_reason)"
        " VALUES (:account, 'cus_1', 'usd', 'x', 'x', CAST(:parked_at AS timestamptz), :reason)",
        **{"account": team(), "parked_at": None, "reason": None} | columns,
    )


@plants("parked account")
def _(it: Installation) -> None:
    _customer(it, parked_at=START, reason="two subscriptions")


@plants("report in quarantine")
def _(it: Installation) -> None:
    with it.rt.transaction() as connection:
        refused = [(Rejection(index=0, field="started_at", reason="must be an instant"), {"instance_id": "x"})]
        quarantine(connection, refused, instances={}, at=START, actor=SYSTEM)


EVENT: Final = """
    INSERT INTO stripe_event (event_id, type, object_id, created_at, received_at, state, outcome)
    VALUES ('evt_1', 'invoice.created', 'in_1', now(), now() - interval '11 minutes', :state, :outcome)
"""


@plants("parked event")
def _(it: Installation) -> None:
    it.sql(EVENT, state="parked", outcome="no such invoice")


@plants("event not applied")
def _(it: Installation) -> None:
    it.sql(EVENT, state="pending", outcome="busy")


@plants("outbox not sent")
def _(it: Installation) -> None:
    it.sql(
        "INSERT INTO outbox (key, task, payload, created_at)"
        " VALUES ('k', 'server.block_user', '{}', now() - interval '11 minutes')"
    )


REPORT: Final = """
    INSERT INTO meter_report (attribution_id, as_of, identifier, quantity, attempts, error, created_at)
    VALUES (:account, now(), 'one', 5, 4, :error, now() - interval '11 minutes')
"""


@plants("meter report not taken")
def _(it: Installation) -> None:
    it.sql(REPORT, account=team(), error="busy")


@plants("reports that wait for Stripe's clock")
def _(it: Installation) -> None:
    it.sql(REPORT, account=team(), error="early: by Stripe's clock")


@plants("action in doubt")
def _(it: Installation) -> None:
    it.sql(
        "INSERT INTO stripe_action (attribution_id, operation, object_id, number, idempotency_key, actor, requested_at)"
        " VALUES (:account, 'finalize_invoice', 'in_1', 1, 'x', 'service:tests', now() - interval '11 minutes')",
        account=team(),
    )


@plants("hold not released")
def _(it: Installation) -> None:
    _customer(it)
    it.sql(
        "INSERT INTO payment_hold (attribution_id, number, idempotency_key, currency, release_at)"
        " VALUES (:account, 1, 'x', 'usd', now() - interval '11 minutes')",
        account=team(),
    )


@plants("events missed")
def _(it: Installation) -> None:
    for name in ("missed events", "missed refunds"):
        it.sql("INSERT INTO stripe_walk VALUES (:name, '2027-01-01Z', '2027-02-01Z', '')", name=name)


@plants("Redis away")
def _(it: Installation) -> None:
    it.set("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")


@plants("eviction policy")
def _(it: Installation) -> None:
    it.own_redis().config_set("maxmemory-policy", "allkeys-lru")


@plants("no append-only file")
def _(it: Installation) -> None:
    it.own_redis().config_set("appendonly", "no")


@plants("Redis of another installation")
def _(it: Installation) -> None:
    it.rt.redis.set("usage:installation", "11111111-2222-4333-8444-555555555555@1/1")


@plants("id of the installation not readable")
def _(it: Installation) -> None:
    it.sql("ALTER TABLE installation RENAME TO kept_elsewhere")


@plants("Redis is a replica")
def _(it: Installation) -> None:
    it.own_redis().replicaof("127.0.0.1", free_port())


@plants("memory of Redis nearly used up")
def _(it: Installation) -> None:
    client = it.own_redis()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))


@plants("connections of Redis nearly used up")
def _(it: Installation) -> None:
    client = it.own_redis()
    client.config_set("maxclients", 4)
    held = [client.connection_pool.get_connection() for _ in range(3)]
    it.request.addfinalizer(lambda: [each.disconnect() for each in held])


@plants("dead letter")
def _(it: Installation) -> None:
    letter = dead_letters.DeadLetter(
        task_id="1", task="usage.reconcile", args=(), kwargs={}, reason="it died", parked_at=START.isoformat()
    )
    assert dead_letters.add_dead_letter(it.rt.redis, letter)


@plants("message of a newer version")
def _(it: Installation) -> None:
    message = waiting_messages.WaitingMessage(
        task_id="1",
        task="usage.forecast",
        queue="usage",
        args=0,
        kwargs=(),
        reason="no such task",
        refused_by=(),
        answer_awaited=False,
        expires=None,
        waits_since=START.isoformat(),
    )
    waiting_messages.keep_message(it.rt.redis, message, {})


@plants("announcements without a consumer")
def _(it: Installation) -> None:
    send_aged(it.rt.settings.redis_url, "server.block_user", 16, seconds_ago=600)


@plants("queue without a worker")
def _(it: Installation) -> None:
    send_aged(it.rt.settings.redis_url, "directory.update_users", seconds_ago=600)


@plants("queue without a worker for seconds")
def _(it: Installation) -> None:
    send_aged(it.rt.settings.redis_url, "usage.reconcile", seconds_ago=30)


def _use_prices(it: Installation, price: str | None = None) -> None:
    world = it.request.getfixturevalue("world")
    world.advance(datetime.now(UTC))
    it.set("USAGE_STRIPE_API_BASE", world.url)
    prices = world.price_by_currency if price is None else {"usd": price}
    it.set("USAGE_STRIPE_PRICES", json.dumps({"teamUsagePriceIds": prices}))


@plants("price in Stripe is another")
def _(it: Installation) -> None:
    _use_prices(it, it.request.getfixturevalue("world").flat_price())


@plants("Stripe away")
def _(it: Installation) -> None:
    _use_prices(it)
    it.set("USAGE_STRIPE_API_BASE", f"http://127.0.0.1:{free_port()}")


@plants("beat dead")
def _(it: Installation) -> None:
    _change_heartbeat(it, "beat", beat_at=time.monotonic() - 60)


@plants("worker dead")
def _(it: Installation) -> None:
    _change_heartbeat(it, "worker", pid=2**22 + 1)  # above every process id


def _change_heartbeat(it: Installation, kind: str, **values: object) -> None:
    (file,) = it.heartbeats.glob(f"{kind}.*")
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


SILENT: Final = {"database silent", "database slow", "Redis silent"}
"""Planted in test_silent_peers.py."""


def test_an_installation_of_one_host_has_nothing_to_see_to(installation: Installation) -> None:
    assert to_see_to(installation.examine()) == []


@pytest.mark.parametrize("fault", PLANTS)
def test_a_fault_is_named_with_what_to_do_and_nothing_else_is(installation: Installation, fault: str) -> None:
    PLANTS[fault](installation)
    found = to_see_to(installation.examine())
    assert any(FAULTS[fault].is_in(each) for each in found), found
    beside = BESIDE.get(fault, set())
    assert [each for each in found if not FAULTS[fault].is_in(each) and each.check not in beside] == []


def test_every_fault_of_the_page_is_planted() -> None:
    assert PLANTS.keys() | SILENT == FAULTS.keys()
    assert len(FAULTS) > 50


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda each: each.name)
def test_a_command_that_is_advised_exists(fault: Any) -> None:
    commands = [line for line in tree.lines() if line.startswith("usage-tasks ")]
    advised = re.findall(r"`(usage-tasks [^`]+)`", fault.advice) + re.findall(r"usage-tasks migrate", fault.advice)
    for each in advised:
        words = [word for word in each.split() if word == word.lower() and not word.startswith("-")]
        assert any(" ".join(words[:length]) in commands for length in (2, 3)), each
        group = " ".join(words[:2])
        below = [command for command in commands if command.startswith(f"{group} ")]
        assert len(words) == 2 or not below or " ".join(words[:3]) in below, each
    assert advised or "celery -A usage_tasks" in fault.advice or fault.advice


def test_the_page_is_where_the_readers_look() -> None:
    assert (Path(__file__).parents[3] / "docs" / "doctor.md").exists()

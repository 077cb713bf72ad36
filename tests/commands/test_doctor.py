"""`usage-tasks doctor` on an installation that is whole, and on ones that are not."""

import json
import os
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from tests.database_clock import set_database_clock
from tests.factories import START
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.embedded.processes import free_port
from usage_tasks.health import write_heartbeat
from usage_tasks.runtime import Runtime
from usage_tasks.settings import load_settings


def examined() -> tuple[int, list[dict[str, Any]]]:
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    return done.exit_code, [json.loads(each) for each in done.stdout.splitlines()]


def wrong(found: list[dict[str, Any]]) -> list[str]:
    assert all(each["advice"] for each in found if each["verdict"] != "fine"), found
    return [f"{each['check']}: {each['found']}" for each in found if each["verdict"] == "wrong"]


@pytest.fixture
def whole(rt: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with nothing wrong; its credentials file."""
    TestClock(rt.redis).advance(START)
    write_heartbeat(tmp_path / "beats", "beat", "1", broker=())
    credentials = tmp_path / "stripe.json"
    credentials.write_text(json.dumps({"secretKey": "sk_test_not_a_key"}))
    credentials.chmod(0o600)
    monkeypatch.setenv("USAGE_HEARTBEAT_DIR", str(tmp_path / "beats"))
    monkeypatch.setenv("USAGE_STRIPE_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("USAGE_BILLING_SYNC_SCHEDULE", "")
    return credentials


def test_a_whole_installation_has_nothing_wrong(whole: Path) -> None:
    code, found = examined()
    assert (code, wrong(found)) == (0, [])
    assert {"settings", "stripe", "migrations", "broker", "clocks", "beat", "file"} <= {each["check"] for each in found}
    assert "test" in next(each["found"] for each in found if each["check"] == "stripe")


def test_lines_are_never_cut_and_what_is_fine_is_counted(rt: Runtime, whole: Path) -> None:
    shown = CliRunner(env={"COLUMNS": "20"}).invoke(cli, ["doctor"])
    assert (shown.exit_code, re.fullmatch(r"[0-9]+ checks, nothing to do\n", shown.stdout) is not None) == (0, True)
    account = "team:00000000-0000-4000-8000-000000000001"
    with rt.transaction() as connection:
        connection.execute(text(PARKED), {"account": account, "reason": "two\nsubscriptions\x1b[2J"})
    shown = CliRunner(env={"COLUMNS": "20"}).invoke(cli, ["doctor"])
    lines = shown.stdout.splitlines()
    found = f"wrong  parked: 1 account without reports to Stripe: {account}: two subscriptions [2J"
    assert (shown.exit_code, lines[0], len(lines)) == (1, found, 3)
    assert lines[1].startswith("       Mend the reason in Stripe")
    assert lines[2].endswith(" checks, 1 to see to")
    shown = CliRunner(env={"COLUMNS": "20"}).invoke(cli, ["doctor", "--all"])
    assert "fine   settings: complete" in shown.stdout.splitlines()


PARKED = """
    INSERT INTO stripe_customer (attribution_id, stripe_customer_id, currency, billing_creator_user_id, idempotency_key,
                                 parked_at, parked_reason)
    VALUES (:account, 'cus_1', 'usd', 'x', 'x', now(), :reason)
"""


def test_a_machine_without_a_beat_is_not_at_fault(whole: Path) -> None:
    next(whole.parent.glob("beats/*")).unlink()  # another machine of the installation may have it
    code, found = examined()
    assert (code, wrong(found)) == (0, [])
    assert {each["verdict"] for each in found if each["check"] == "beat"} == {"fine"}


def test_each_fault_is_named_with_what_to_do(rt: Runtime, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole.chmod(0o644)
    whole.write_text(json.dumps({"secretKey": "sk_live_not_a_key"}))
    heartbeat = next(whole.parent.glob("beats/*"))
    heartbeat.write_text(json.dumps(json.loads(heartbeat.read_text()) | {"beat_at": time.monotonic() - 60}))
    with rt.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    rt.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        code, found = examined()
    finally:
        rt.redis.config_set("maxmemory-policy", "noeviction")
    told = wrong(found)
    assert (code, len(told)) == (1, 5), told
    for each, part in zip(told, ("stripe.json", "mode is live", "0001", "allkeys-lru", "0 of 1"), strict=True):
        assert part in each


@pytest.mark.holds("clocks.skew")
def test_a_database_whose_clock_was_set_back_is_found_by_the_others_and_by_its_runs(
    rt: Runtime, whole: Path, database_url: str
) -> None:
    with rt.transaction() as connection:
        taken = "INSERT INTO job_run (job, slot, outcome) VALUES ('usage.reconcile', '2026-03-04 05:45Z', 'done')"
        connection.execute(text(taken))
    set_database_clock(database_url, -timedelta(hours=1))
    code, found = examined()
    told = wrong(found)
    assert (code, [each.partition(" ")[0] for each in told]) == (1, ["clocks:", "clocks:"]), told
    assert "less than when a job last began" in told[0]
    assert "database is -3600" in told[1] or "database is -3599" in told[1]
    (advice,) = (each["advice"] for each in found if each["found"].startswith("database is -"))
    assert "Apart from the others: the database's." in advice
    (slots,) = (each for each in found if "slots of the future" in each["found"])
    assert (slots["verdict"], "usage.reconcile 2026-03-04T05:45:00+00:00" in slots["found"]) == ("look", True)


def test_what_is_away_hides_nothing_else(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("USAGE_TEST_CLOCK", "false")
    code, found = examined()
    assert code == 1
    # By the system's clock the jobs have waited for months: doctor reports that too.
    assert {each.partition(":")[0] for each in wrong(found)} - set(load_settings(os.environ).job_schedules) == {
        "broker"
    }
    monkeypatch.setenv("USAGE_RESET_USAGE_SCHEDULE", "soon")
    assert wrong(examined()[1])[0].startswith("settings: ")


def of(found: list[dict[str, Any]], check: str, part: str) -> list[str]:
    """The verdicts of a check's findings with a part in their text."""
    return [each["verdict"] for each in found if each["check"] == check and part in each["found"]]


EARLY = """
    INSERT INTO meter_report (attribution_id, as_of, identifier, quantity, error)
    VALUES ('team:00000000-0000-4000-8000-000000000001', now(), 'one', 5, :error)
"""


def test_reports_that_wait_for_stripes_clock_are_named(rt: Runtime, whole: Path) -> None:
    with rt.transaction() as connection:
        connection.execute(text(EARLY), {"error": "early: by Stripe's clock"})
    code, found = examined()
    assert (code, of(found, "clocks", "1 meter reports wait for Stripe's clock")) == (1, ["wrong"])
    with rt.transaction() as connection:
        connection.execute(text("UPDATE meter_report SET error = 'busy'"))
    assert examined()[0] == 0


WALK = """
    INSERT INTO stripe_walk (name, since, until, cursor) VALUES (:name, '2027-01-01Z', '2027-02-01Z', '')
"""


def test_events_that_are_missed_are_named_until_their_objects_were_looked_at(rt: Runtime, whole: Path) -> None:
    with rt.transaction() as connection:
        connection.execute(text(WALK), [{"name": "missed events"}, {"name": "missed refunds"}])
    code, found = examined()
    assert (code, of(found, "events", "from 2027-01-01 00:00 until 2027-02-01 00:00")) == (0, ["look"])
    assert of(found, "events", "still to be looked at instead: refunds") == ["look"]
    with rt.transaction() as connection:
        connection.execute(text("UPDATE stripe_walk SET until = NULL, cursor = NULL WHERE name = 'missed refunds'"))
    assert of(examined()[1], "events", "the objects were looked at instead") == ["fine"]

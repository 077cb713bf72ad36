"""A dry run returns the rows that a run then writes, and writes nothing itself."""

import csv
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from typer.testing import CliRunner

from tests.factories import (
    DAY,
    HOUR,
    START,
    SYSTEM,
    call,
    give,
    record,
    session_report,
    session_row,
    stopped_report,
    team,
    used,
    used_report,
)
from tests.snapshot import snapshot
from usage_tasks import bulk
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.post_usage import cap_batch, post_batch
from usage_tasks.tasks.usage import ledger, sessions

COLUMNS = ("attribution_id", "key", "kind", "credit_cents", "effective_at", "description")


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """An installation whose jobs are scheduled."""
    return environment | {"USAGE_CONTROLLER_SCHEDULE": "15m", "USAGE_RESET_USAGE_SCHEDULE": "24h"}


def dry(rt: Runtime, task: Any, at: datetime) -> Any:
    """Run a job dry as a beat's tick would run it, and find that nothing has changed."""
    TestClock(rt.redis).advance(at)
    before, messages = snapshot(rt.database), set(rt.redis.keys())
    answer = call(task, at=at.isoformat(), scheduled=True, dry_run=True)
    assert snapshot(rt.database) == before
    assert set(rt.redis.keys()) == messages
    assert list(answer) == ["dry_run"]
    return answer["dry_run"]


def entries(rt: Runtime, *kinds: str) -> list[dict[str, Any]]:
    statement = f"SELECT {', '.join(COLUMNS)} FROM ledger_entry WHERE kind = ANY(:kinds) ORDER BY effective_at, 1, key"  # noqa: S608
    with rt.transaction() as connection:
        return [dict(row._mapping) for row in connection.execute(text(statement), {"kinds": list(kinds)})]


def shown(sample: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A sample's entries as `entries` returns them."""
    rows = [{name: row[name] for name in COLUMNS} for row in sample]
    return [row | {"effective_at": datetime.fromisoformat(row["effective_at"])} for row in rows]


@pytest.mark.holds("usage.dry-run")
def test_a_dry_ledger_run_answers_the_very_entries_and_announcements_and_writes_nothing(rt: Runtime) -> None:
    wrong = stopped_report(HOUR, workspace_class="xlarge")
    with rt.transaction() as connection:
        record(connection, wrong, session_report(workspace_class="large"), stopped_report(-HOUR))
        post_batch(connection, at=START + HOUR)
        longer = {"instance_id": wrong.instance_id, "workspace_class": "xlarge", "observed_at": START + DAY}
        record(connection, stopped_report(2 * HOUR, **longer), used_report(team("b"), 50_000, at=START + 10 * HOUR))
    posted = entries(rt, "session", "adjustment")
    plan = dry(rt, ledger.reconcile_usage, START + DAY)
    done = call(ledger.reconcile_usage, at=(START + DAY).isoformat())
    assert (done["entries"], done["credit_cents"]) == (2, 56_000)
    told = done["thresholds_reached"] + done["limits_reached"] + done["hard_limits_reached"]
    assert (plan["entries"]["rows"], plan["entries"]["credit_cents"]) == (2, 56_000)
    assert shown(plan["entries"]["sample"]) == [
        entry for entry in entries(rt, "session", "adjustment") if entry not in posted
    ]
    with rt.transaction() as connection:
        crossed = connection.execute(
            text(
                "SELECT attribution_id, crossing, level_cents FROM limit_crossing "
                "ORDER BY attribution_id, level_cents, crossing DESC"
            )
        ).all()
    assert plan["announcements"]["rows"] == told == len(crossed) > 0
    sample = plan["announcements"]["sample"]
    assert [(each["attribution_id"], each["crossing"], each["level_cents"]) for each in sample] == [
        tuple(each) for each in crossed
    ]
    empty = {"rows": 0, "sample": []}
    assert dry(rt, ledger.reconcile_usage, START + DAY) == {
        "zombies": {"capped": 0, "moved": 0, "lifted": 0},
        "expiries": {"cycles": 0, "accounts_failed": 0, "failed": [], "entries": empty | {"credit_cents": 0}},
        "entries": empty | {"credit_cents": 0},
        "announcements": empty | {"credit_cents": None},
    }


@pytest.mark.holds("usage.dry-run")
def test_a_dry_ledger_run_reckons_with_the_zombies_it_would_cap_and_the_grants_that_expire(
    environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    environment["USAGE_HEARTBEAT_GRACE"] = "1h"
    rt: Runtime = request.getfixturevalue("rt")
    with rt.transaction() as connection:
        # Runs at 1 a minute: 1440 a day, over its limit of 500; capped after an hour it is far from it.
        record(connection, session_report(attribution_id=team("zombie"), workspace_class="xlarge"))
        used(connection, team("granted"), 30_000, at=START + 10 * HOUR)
        give(connection, 1_000, attribution_id=team("granted"), expires_at=START + 20 * HOUR)
        record(connection, stopped_report(HOUR, attribution_id=team("plain"), workspace_class="xlarge"))
    plan = dry(rt, ledger.reconcile_usage, START + DAY)
    done = call(ledger.reconcile_usage, at=(START + DAY).isoformat())
    assert plan["zombies"] == {"capped": done["zombies"], "moved": 0, "lifted": done["zombies_lifted"]}
    assert (done["zombies"], done["expiries"], done["entries"]) == (1, 1, 1)
    assert (plan["entries"]["rows"], plan["entries"]["credit_cents"]) == (done["entries"], done["credit_cents"])
    assert shown(plan["expiries"]["entries"]["sample"]) == entries(rt, "grant_burn")
    assert plan["expiries"]["entries"]["credit_cents"] == -1_000
    told = done["thresholds_reached"] + done["limits_reached"] + done["hard_limits_reached"]
    assert plan["announcements"]["rows"] == told == 1
    assert plan["announcements"]["sample"][0]["attribution_id"] == team("granted")


@pytest.mark.holds("usage.dry-run")
def test_a_dry_run_lists_a_hundred_and_counts_all(rt: Runtime) -> None:
    with rt.transaction() as connection:
        record(connection, *(used_report(team(n), 10, at=START + HOUR) for n in range(103)))
    plan = dry(rt, ledger.reconcile_usage, START + DAY)["entries"]
    assert (plan["rows"], plan["credit_cents"], len(plan["sample"])) == (103, 1030, 100)


def test_a_dry_run_holds_up_no_report_and_no_posting(rt: Runtime) -> None:
    report = stopped_report(HOUR)
    with rt.transaction() as connection:
        record(connection, report)
    with rt.transaction() as connection:
        assert post_batch(connection, at=START + DAY).entries == 1
        # It would wait for the posting's locks, and for ever, if it took any.
        assert (
            call(ledger.reconcile_usage, at=(START + DAY).isoformat(), dry_run=True)["dry_run"]["entries"]["rows"] == 1
        )


@pytest.mark.holds("usage.dry-run")
def test_a_dry_reset_answers_the_very_entries_of_every_cycle_and_writes_nothing(rt: Runtime) -> None:
    late = add_months(START, 3) + DAY
    with rt.transaction() as connection:
        record(connection, at=START)
        for account, cents in (("a", 80_000), ("b", 100), ("c", 0)):
            used(connection, team(account), cents, at=START + DAY)
    plan = dry(rt, ledger.reset_usage, late)
    assert call(ledger.reset_usage, at=late.isoformat()) == {"cycles": plan["cycles"]}
    written = entries(rt, "reset")
    assert [entry["credit_cents"] for entry in written if entry["attribution_id"] == team("a")] == [-50_000, -30_000]
    assert (plan["entries"]["rows"], plan["entries"]["credit_cents"]) == (3, -80_100)
    by_key = sorted(
        shown(plan["entries"]["sample"]), key=lambda entry: (entry["effective_at"], entry["attribution_id"])
    )
    assert by_key == written
    assert (plan["accounts_failed"], plan["failed"]) == (0, [])
    assert dry(rt, ledger.reset_usage, late)["cycles"] == 0


def test_a_dry_reset_names_the_accounts_that_would_fail(rt: Runtime) -> None:
    with rt.transaction() as connection:
        record(connection, *(used_report(team(n), 1000, at=START + DAY) for n in range(3)))
        refuse = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no today'; END $$"
        connection.execute(text(refuse))
        connection.execute(
            text(
                "CREATE TRIGGER no BEFORE INSERT ON ledger_entry FOR EACH ROW "
                f"WHEN (NEW.kind = 'reset' AND NEW.attribution_id = '{team(1)}') EXECUTE FUNCTION no()"
            )
        )
    plan = dry(rt, ledger.reset_usage, add_months(START, 1) + DAY)
    assert (plan["cycles"], plan["entries"]["rows"], plan["accounts_failed"]) == (2, 2, 1)
    assert plan["failed"] == [[team(1), "database: P0001 no today"]]


def unchanged(rt: Runtime, do: Callable[[], Any]) -> Any:
    """Do something, and find that no row and no sequence has changed."""
    before = snapshot(rt.database)
    answer = do()
    assert snapshot(rt.database) == before
    return answer


@pytest.mark.holds("usage.dry-run")
def test_a_dry_snapshot_answers_what_it_would_heal_and_whom_it_would_end(rt: Runtime) -> None:
    gone, refused = session_row(source="eu"), session_row(source="eu", workspace_class="gold")
    at = (START + HOUR).isoformat()
    call(sessions.record_instances, instances=[gone], actor=SYSTEM, at=START.isoformat())
    listed = {"source": "eu", "instances": [session_row(attribution_id=team("new")), refused], "actor": SYSTEM}
    plan = unchanged(rt, lambda: call(sessions.report_running, **listed, at=at, dry_run=True))["dry_run"]
    done = call(sessions.report_running, **listed, at=at)
    assert (done["inserted"], done["ended"], done["quarantined"], done["complete"]) == (1, 1, 1, True)
    assert plan | {"ended": plan["ended"]["rows"]} == done
    assert [(each["instance_id"], each["ends_at"]) for each in plan["ended"]["sample"]] == [
        (gone["instance_id"], "2026-01-01T00:00:00+00:00")
    ]
    again = call(sessions.report_running, **listed, at=at, dry_run=True)["dry_run"]
    assert (again["inserted"], again["ended"]["rows"]) == (0, 0)
    unreadable = listed | {"instances": ["x"]}
    later = (START + DAY).isoformat()
    torn = call(sessions.report_running, **unreadable, at=later, dry_run=True)["dry_run"]
    assert (torn["complete"], torn["ended"]["rows"]) == (False, 0)


@pytest.mark.holds("usage.dry-run")
def test_a_dry_release_of_a_zombie_answers_the_cap_and_leaves_it(rt: Runtime) -> None:
    row = session_row()
    call(sessions.record_instances, instances=[row], actor=SYSTEM, at=START.isoformat())
    TestClock(rt.redis).advance(START + DAY)
    with rt.transaction() as connection:
        cap_batch(connection, at=START + DAY, heartbeat_grace=HOUR, lifetime_max=None)
    asked = {"instance_id": row["instance_id"], "actor": SYSTEM}
    plan = unchanged(rt, lambda: call(sessions.release_session, **asked, dry_run=True))
    shown = unchanged(rt, lambda: CliRunner().invoke(cli, ["release", row["instance_id"], "--dry-run"]))
    assert "would be released: heartbeat at 2026-01-01 01:00:00+00:00" in " ".join(shown.output.split())
    assert plan == {"dry_run": call(sessions.release_session, **asked)}
    assert plan["dry_run"]["released"] == "heartbeat"
    with pytest.raises(InvalidInputError, match="`instance_id`: no such session"):
        call(sessions.release_session, instance_id=session_row()["instance_id"], actor=SYSTEM, dry_run=True)


@pytest.mark.holds("usage.dry-run")
def test_a_dry_import_counts_what_an_import_then_does_over_all_its_chunks(rt: Runtime, tmp_path: Path) -> None:
    TestClock(rt.redis).advance(START + DAY)
    first = session_row(attribution_id=team("new"))
    stopped = first | {"stopped_at": (START + HOUR).isoformat()}
    rows = [first, session_row(), stopped, session_row(workspace_class="gold"), stopped]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(stopped))
        writer.writeheader()
        writer.writerows(rows)
    asked: dict[str, Any] = {"path": tmp_path / "rows.csv", "at": START + DAY, "actor": SYSTEM, "chunk_lines": 1}
    command = ["import", str(tmp_path / "rows.csv")]
    shown = unchanged(rt, lambda: CliRunner().invoke(cli, [*command, "--dry-run"]))
    assert shown.exit_code == 1
    assert json.loads(shown.stdout) == {"dry_run": {"inserted": 2, "updated": 0, "unchanged": 2, "quarantined": 1}}
    plan = unchanged(rt, lambda: list(bulk.rehearse_file(rt, **asked)))
    assert [part.merged for part in plan] == [part.merged for part in bulk.import_file(rt, **asked)]
    assert [(part.merged.inserted, part.merged.updated, part.merged.unchanged) for part in plan] == [
        (2, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ]
    assert sum(len(part.rejections) for part in plan) == 1


def test_what_a_dry_run_would_do_is_not_counted_as_done(rt: Runtime) -> None:
    def counted() -> object:
        labels = {"task": "usage.reconcile", "what": "entries"}
        return REGISTRY.get_sample_value("usage_rows_total", labels)

    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR))
    before = counted()
    dry(rt, ledger.reconcile_usage, START + DAY)
    assert counted() == before
    call(ledger.reconcile_usage, at=(START + DAY).isoformat())
    assert counted() != before

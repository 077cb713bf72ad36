"""Refused reports are released through the same path that records, once, or dropped; by task and command line."""

import json
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event, text
from structlog.testing import capture_logs
from typer.testing import CliRunner

from tests.factories import DAY, HOUR, START, SYSTEM, call, make_id, session_row, team
from tests.snapshot import snapshot
from usage_tasks import bulk
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.task import ArgumentsError
from usage_tasks.tasks.usage import ledger, prices, quarantine, sessions

OPERATOR = "service:operator"
NOW = START + 3 * DAY


def stopped(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A session of an hour, by default of a class without a price."""
    told = {
        "instance_id": str(make_id(f"refused {number}")),
        "workspace_class": "gold",
        "stopped_at": START + HOUR,
        "observed_at": START + HOUR,
    }
    return session_row(**told | fields)


def send(*rows: Any, at: datetime = START + HOUR) -> Any:
    return call(sessions.record_instances, instances=[*rows], actor=SYSTEM, at=at.isoformat())


def price(workspace_class: str = "gold") -> None:
    arguments = {"credits_per_minute": "1", "effective_from": "1970-01-01T00:00:00Z", "dry_run": False}
    call(prices.add_price_version, workspace_class=workspace_class, actor=OPERATOR, at=NOW.isoformat(), **arguments)


def release(**arguments: Any) -> Any:
    told = {"everything": not {"ids", "field", "reason"} & arguments.keys(), "dry_run": False} | arguments
    return call(quarantine.release_quarantined, actor=OPERATOR, at=NOW.isoformat(), **told)


def query(rt: Runtime, statement: str) -> list[tuple[Any, ...]]:
    with rt.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def waiting(rt: Runtime) -> list[tuple[Any, ...]]:
    return query(rt, "SELECT field, times_seen FROM quarantined_report ORDER BY field, report")


def facts(rt: Runtime) -> list[tuple[Any, ...]]:
    columns = "instance_id, workspace_class, started_at, stopped_at, observed_at, last_seen_at, source, ended_at"
    return query(rt, f"SELECT {columns} FROM workspace_instance ORDER BY 1")  # noqa: S608 - constants


@pytest.mark.holds("numbers.unknown-class", "numbers.release-refused")
def test_what_is_refused_no_more_is_taken_up_as_if_it_came_now_and_billed_once(rt: Runtime) -> None:
    assert send(stopped(1), stopped(2))["quarantined"] == 2
    price()
    done = release()
    assert (done["released"], done["inserted"], done["still_refused"]) == (2, 2, 0)
    assert waiting(rt) == []
    released = facts(rt)
    assert call(ledger.reconcile_usage, at=NOW.isoformat())["credit_cents"] == 2 * 6000
    assert release() == done | {"released": 0, "inserted": 0}
    assert send(stopped(1), stopped(2))["unchanged"] == 2
    assert facts(rt) == released
    assert call(ledger.reconcile_usage, at=NOW.isoformat())["entries"] == 0


@pytest.mark.holds("numbers.release-refused")
def test_what_still_fails_stays_with_the_reason_of_now_and_holds_up_no_other(rt: Runtime) -> None:
    send(stopped(1), stopped(2, workspace_class="silver"), stopped(3, user_id=" nobody"))
    price()
    done = release()
    assert (done["released"], done["still_refused"], len(done["sample"])) == (1, 2, 2)
    reasons = dict(query(rt, "SELECT field, reason FROM quarantined_report"))
    assert "must be a class with a price: default, gold, " in reasons["workspace_class"]
    assert {each["reason"] for each in done["sample"]} == set(reasons.values())
    assert waiting(rt) == [("user_id", 1), ("workspace_class", 1)]
    assert {each["id"] for each in done["sample"]} == {
        row[0] for row in query(rt, "SELECT digest FROM quarantined_report")
    }


@pytest.mark.holds("numbers.release-refused")
def test_a_report_that_is_refused_for_another_reason_is_still_one_row(rt: Runtime) -> None:
    send(stopped(1))
    price("new")
    send(stopped(1))
    assert waiting(rt) == [("workspace_class", 2)]
    assert "new" in query(rt, "SELECT reason FROM quarantined_report")[0][0]


@pytest.mark.parametrize(
    ("chosen", "released"),
    [
        ({"reason": "(got 'gold')"}, {"refused 1", "refused 2"}),
        ({"field": "observed_at"}, {"refused 3"}),
        ({"field": "observed_at", "reason": "gold"}, set()),
    ],
)
def test_only_what_is_meant_is_released(rt: Runtime, chosen: dict[str, Any], released: set[str]) -> None:
    early = stopped(3, workspace_class="small", observed_at=START + 2 * DAY)
    send(stopped(1), stopped(2), early)
    price()
    assert release(**chosen)["released"] == len(released)
    assert {row[0] for row in facts(rt)} == {make_id(name) for name in released}
    assert len(waiting(rt)) == 3 - len(released)


def test_a_report_is_released_by_its_id(rt: Runtime) -> None:
    send(stopped(1), stopped(2))
    price()
    ((digest,),) = query(rt, f"SELECT digest FROM quarantined_report WHERE report LIKE '%{make_id('refused 2')}%'")  # noqa: S608
    assert release(ids=[digest])["released"] == 1
    assert [row[0] for row in facts(rt)] == [make_id("refused 2")]


@pytest.mark.holds("numbers.unknown-class")
def test_a_report_that_says_no_instant_was_seen_when_it_was_sent(rt: Runtime) -> None:
    row = session_row(workspace_class="gold")
    send(row, at=START + HOUR)
    send(row, at=START + 2 * HOUR)
    send(row, at=START)
    price()
    release()
    ((_, _, _, _, observed_at, last_seen_at, _, _),) = facts(rt)
    assert (observed_at, last_seen_at) == (START + 2 * HOUR, START + 2 * HOUR)


def test_a_row_of_a_snapshot_is_released_as_one_seen_to_run_in_its_source(rt: Runtime) -> None:
    row = session_row(workspace_class="gold", observed_at=START)
    for hours in (1, 2):
        at = (START + hours * HOUR).isoformat()
        call(sessions.report_running, source="eu", instances=[row], actor=SYSTEM, at=at)
    price()
    assert release()["inserted"] == 1
    ((_, _, _, _, _, last_seen_at, source, ended_at),) = facts(rt)
    assert (last_seen_at, source, ended_at) == (START + 2 * HOUR, "eu", None)


def test_a_row_of_an_earlier_snapshot_than_the_latest_has_ended_at_its_proof_of_life(rt: Runtime) -> None:
    rows = [session_row(workspace_class="gold", observed_at=START)]
    for hours, listed in ((1, rows), (2, [])):
        at = (START + hours * HOUR).isoformat()
        call(sessions.report_running, source="eu", instances=listed, actor=SYSTEM, at=at)
    price()
    release()
    assert [row[-1] for row in facts(rt)] == [START + HOUR]


def test_a_release_tells_the_audit_who_did_it(rt: Runtime) -> None:
    send(stopped(1), stopped(2, workspace_class="silver"))
    price()
    release()
    release()
    told = query(rt, "SELECT actor, attribution_id, details ->> 'reports' FROM audit WHERE action LIKE 'quarantine.%'")
    assert told == [(OPERATOR, None, "1")]


@pytest.mark.holds("usage.dry-run")
def test_a_dry_run_tells_what_would_become_of_each_and_writes_nothing(rt: Runtime) -> None:
    send(stopped(1), stopped(2, workspace_class="silver"), stopped(3, attribution_id=team("new")))
    price()
    before = snapshot(rt.database)
    plan = release(dry_run=True)
    assert snapshot(rt.database) == before
    assert plan == {"dry_run": release()}
    assert (plan["dry_run"]["released"], plan["dry_run"]["still_refused"]) == (2, 1)


def test_more_than_a_batch_is_released_in_one_go_and_those_that_fail_are_seen_once(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_tasks.services.sessions.quarantine.BATCH", 3)
    classes = ["gold", "silver"]
    send(*(stopped(number, workspace_class=classes[number % 2]) for number in range(20)))
    price()
    assert release(dry_run=True)["dry_run"] | {"sample": []} == release() | {"sample": []}
    assert waiting(rt) == [("workspace_class", 1)] * 10
    assert len(facts(rt)) == 10


def test_a_row_of_a_file_is_released_without_its_line(rt: Runtime, tmp_path: Path) -> None:
    row = stopped(1)
    lines = [",".join(row), ",".join(row.values()), "too,short"]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    refused = [
        each
        for done in bulk.import_file(rt, tmp_path / "rows.csv", at=NOW, actor=Actor(OPERATOR))
        for each in done.rejections
    ]
    assert len(refused) == 2
    price()
    done = release()
    assert (done["released"], done["inserted"], done["still_refused"]) == (1, 1, 1)
    assert [row[0] for row in facts(rt)] == [make_id("refused 1")]


class CrashError(Exception):
    """The process ended between two statements."""


def test_a_crash_between_any_two_statements_loses_and_doubles_nothing(rt: Runtime) -> None:
    send(stopped(1), stopped(2, workspace_class="silver"), session_row(workspace_class="gold", source="eu"))
    price()
    before = snapshot(rt.database)
    engine = rt.database._engine
    for statements in range(1, 100):
        left = iter(range(statements))

        def crash(*_: object, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise CrashError

        event.listen(engine, "after_cursor_execute", crash)
        try:
            done = release()
        except CrashError:
            done = None
        finally:
            event.remove(engine, "after_cursor_execute", crash)
        if done or len(facts(rt)):
            break
        assert {**snapshot(rt.database), "sequences": None} == before | {"sequences": None}
    assert statements > 8
    assert len(facts(rt)) == 2
    assert waiting(rt) == [("workspace_class", 1)]
    assert call(ledger.reconcile_usage, at=NOW.isoformat())["entries"] == 1


@pytest.mark.holds("numbers.release-refused")
def test_two_at_once_release_once(rt: Runtime) -> None:
    send(*(stopped(number) for number in range(40)))
    price()
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(release())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answer["released"] for answer in answers) == [0, 0, 40]
    assert sum(answer["inserted"] for answer in answers) == 40
    assert query(rt, "SELECT sum((details ->> 'reports')::int) FROM audit WHERE action = 'quarantine.released'") == [
        (40,)
    ]
    assert call(ledger.reconcile_usage, at=NOW.isoformat())["entries"] == 40


@pytest.mark.holds("numbers.release-refused")
def test_a_report_that_is_sent_again_while_it_is_released_stays(rt: Runtime) -> None:
    send(stopped(1))
    price()
    bump = "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE quarantined_report SET times_seen = times_seen + 1; RETURN NULL; END $$"  # noqa: E501
    with rt.transaction() as connection:
        connection.execute(text(bump))
        connection.execute(
            text("CREATE TRIGGER bump AFTER INSERT ON workspace_instance FOR EACH ROW EXECUTE FUNCTION bump()")
        )
    assert (release()["released"], waiting(rt)) == (0, [("workspace_class", 2)])
    assert (release()["released"], waiting(rt)) == (1, [])
    assert len(facts(rt)) == 1


def test_what_is_dropped_is_gone_and_told_to_the_audit(rt: Runtime) -> None:
    send(stopped(1), stopped(2), stopped(3, workspace_class="silver"))
    asked = {"actor": OPERATOR, "reason": "'gold'", "at": NOW.isoformat()}
    before = snapshot(rt.database)
    plan = call(quarantine.drop_quarantined, **asked)["dry_run"]
    assert snapshot(rt.database) == before
    assert (plan["dropped"], len(plan["sample"])) == (2, 2)
    assert call(quarantine.drop_quarantined, dry_run=False, **asked) == plan
    assert waiting(rt) == [("workspace_class", 1)]
    assert facts(rt) == []
    told = "SELECT actor, details ->> 'reports' FROM audit WHERE action = 'quarantine.dropped'"
    assert query(rt, told) == [(OPERATOR, "2")]


@pytest.mark.parametrize("told", [{}, {"everything": True, "field": "x"}])
def test_what_is_meant_must_be_said(rt: Runtime, told: dict[str, Any]) -> None:
    for task in (quarantine.release_quarantined, quarantine.drop_quarantined):
        with pytest.raises(InvalidInputError, match="everything"):
            call(task, actor=OPERATOR, **told)


def test_an_id_that_is_none_is_refused(rt: Runtime) -> None:
    with pytest.raises(ArgumentsError, match="ids"):
        release(ids=["x"])


@pytest.mark.holds("numbers.unknown-class", "lesson.bad-row")
def test_how_many_wait_is_a_metric(rt: Runtime) -> None:
    send(stopped(1), stopped(2))
    TestClock(rt.redis).advance(NOW)
    call(ledger.reconcile_usage)
    assert REGISTRY.get_sample_value("usage_quarantined_reports") == 2
    price()
    release()
    assert REGISTRY.get_sample_value("usage_quarantined_reports") == 0


@pytest.fixture
def quiet() -> Iterator[None]:
    """Standard output without the log, which the command itself sends to standard error."""
    with capture_logs():
        yield


@pytest.mark.holds("lesson.bad-row")
def test_the_command_line_lists_shows_releases_and_drops(rt: Runtime, quiet: None) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["quarantine", *arguments])
        assert done.exit_code == code, done.output
        return done.stdout

    TestClock(rt.redis).advance(NOW)
    send(stopped(1), stopped(2, workspace_class="silver"))
    price()
    listed = [json.loads(line) for line in run("--limit", "5").splitlines()]
    gold = next(each["id"] for each in listed if each["report"]["workspace_class"] == "gold")
    assert json.loads(run("release", "--all", code=1))["dry_run"]["released"] == 1
    assert facts(rt) == []
    assert json.loads(run("release", gold, "--apply"))["released"] == 1
    assert json.loads(run("drop", "--field", "workspace_class", "--apply"))["dropped"] == 1
    assert run() == ""

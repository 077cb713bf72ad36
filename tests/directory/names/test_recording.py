"""Sessions by external ids: batches, files, snapshots, quarantine; each form is the same session."""

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import event, text

from tests.directory.names.conftest import IdOf
from tests.factories import DAY, HOUR, START, call, make_id, session_row, team
from tests.ledger.test_posting import wait_until_blocked
from usage_tasks import bulk
from usage_tasks.domain.accounts import Actor, ExternalName
from usage_tasks.runtime import Runtime
from usage_tasks.storage.directory.names import keep_external_ids
from usage_tasks.tasks.usage import limits, quarantine, sessions

ACTOR: Final = "service:tests"
NAMED: Final = {"instance_id": "ci-1", "user_id": "ann", "attribution_id": "team:acme"}
AT: Final = START + DAY


def record(*rows: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = call(sessions.record_instances, instances=list(rows), actor=ACTOR, at=AT.isoformat())
    return answer


def query(rt: Runtime, statement: str) -> list[tuple[Any, ...]]:
    with rt.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def held(rt: Runtime) -> list[tuple[Any, ...]]:
    return query(rt, "SELECT instance_id::text, user_id::text, attribution_id FROM workspace_instance ORDER BY 1")


def names(rt: Runtime) -> dict[str, str]:
    return dict(query(rt, "SELECT subject, external_id FROM directory_name"))


def ids(id_of: IdOf) -> tuple[str, str, str]:
    return id_of("session:ci-1"), id_of("user:ann"), f"team:{id_of('team:acme')}"


def kept(id_of: IdOf) -> dict[str, str]:
    session, user, account = ids(id_of)
    return {f"session:{session}": "ci-1", f"user:{user}": "ann", account: "acme"}


@pytest.mark.holds("names.recorded")
def test_a_batch_by_name_is_the_session_by_uuid_and_its_names_are_kept_once(rt: Runtime, id_of: IdOf) -> None:
    session, user, account = ids(id_of)
    assert record(session_row(**NAMED))["inserted"] == 1
    assert held(rt) == [(session, user, account)]
    assert names(rt) == kept(id_of)
    by_uuid = session_row(instance_id=session.upper(), user_id=user, attribution_id=account)
    assert record(by_uuid, session_row(**NAMED))["unchanged"] == 2
    assert names(rt) == kept(id_of)


@contextmanager
def statements(rt: Runtime) -> Iterator[list[str]]:
    """Every statement that is sent to PostgreSQL meanwhile."""
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(rt.database._engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(rt.database._engine, "before_cursor_execute", note)


@pytest.mark.holds("names.recorded")
def test_a_batch_of_uuids_pays_no_statement_and_one_with_names_pays_one(rt: Runtime) -> None:
    record(session_row(), session_row(**NAMED))  # opens the accounts, and reads the namespace for good
    with statements(rt) as by_uuid:
        assert record(session_row(instance_id=str(make_id("second"))))["inserted"] == 1
    with statements(rt) as by_name:
        assert record(session_row(**NAMED | {"instance_id": "ci-2"}))["inserted"] == 1
    about_names = [each for each in by_uuid + by_name if "directory_name" in each]
    assert (len(about_names), len(by_name) - len(by_uuid)) == (1, 1)


@pytest.mark.holds("names.recorded")
def test_uuids_alone_keep_no_name_and_read_no_namespace(rt: Runtime, tmp_path: Path) -> None:
    with statements(rt) as sent:
        assert record(session_row())["inserted"] == 1
        assert snapshot(session_row(source="eu"))["inserted"] == 1
        assert call(limits.check_entitlement, attribution_id=team(), actor=ACTOR, at=AT.isoformat())["may_start"]
        list(bulk.import_file(rt, write(tmp_path / "file.csv", session_row()), at=AT, actor=Actor(ACTOR)))
    assert len(sent) > 20
    assert [each for each in sent if "directory_name" in each] == []


@pytest.mark.holds("names.recorded")
def test_the_first_reports_of_names_may_come_to_two_workers_at_once_in_any_order(rt: Runtime) -> None:
    rows = [session_row(instance_id=f"ci-{n}", user_id=f"u-{n}", attribution_id=f"team:t-{n}") for n in range(50)]
    with ThreadPoolExecutor() as workers:
        for half in range(2):
            part = [row | {"instance_id": f"{row['instance_id']}-{half}"} for row in rows]
            done = [workers.submit(record, *order) for order in (part, part[::-1], part)]
            assert sum(each.result()["inserted"] for each in done) == 50
    assert len(names(rt)) == 50 + 50 + 100


@pytest.mark.holds("names.recorded")
def test_a_worker_waits_for_another_that_keeps_the_same_name_and_both_are_done(rt: Runtime, id_of: IdOf) -> None:
    with ThreadPoolExecutor() as workers:
        with rt.transaction() as connection:
            keep_external_ids(connection, [ExternalName(f"user:{id_of('user:ann')}", "ann")])
            waiting = workers.submit(record, session_row(**NAMED))
            wait_until_blocked(rt.database)
        assert waiting.result()["inserted"] == 1
    assert names(rt) == kept(id_of)


BAD_IDS: Final = {
    "": "(got '')",
    "x" * 201: "of 1 to 200 printable characters",
    "a\u200bb": "printable characters",
    "cafe\u0301": "in Unicode's form NFC",
    " ann": "without a space at either end (got ' ann')",
    "{11111111-2222-4333-8444-555555555555}": "or an id that does not look like one (got '{11111111",
    "1111111122224333844455555555555A": "or an id that does not look like one (got '1111111122",
    "urn:uuid:11111111-2222-4333-8444-555555555555": "or an id that does not look like one (got 'urn:uuid:1111",
}


@pytest.mark.holds("names.refused")
@pytest.mark.parametrize(("bad", "told"), BAD_IDS.items(), ids=[ascii(each)[:20] for each in BAD_IDS])
@pytest.mark.parametrize(("field", "prefix"), [("instance_id", ""), ("user_id", ""), ("attribution_id", "team:")])
def test_a_bad_id_is_quarantined_by_its_field_with_what_is_allowed(
    rt: Runtime, field: str, prefix: str, bad: str, told: str
) -> None:
    answer = record(session_row(**{field: prefix + bad}), session_row())
    (rejection,) = answer["rejections"]
    assert (answer["inserted"], rejection["index"], rejection["field"]) == (1, 0, field)
    assert "must be " in rejection["reason"]
    assert "a UUID such as 11111111-2222-4333-8444-555555555555" in rejection["reason"]
    assert told.replace("(got '", f"(got '{prefix}") in rejection["reason"]
    assert names(rt) == {}


@pytest.mark.holds("names.refused")
@pytest.mark.parametrize("field", ["instance_id", "user_id", "attribution_id"])
def test_a_surrogate_without_its_pair_is_quarantined_by_its_field(rt: Runtime, field: str) -> None:
    """JSON has such texts, and UTF-8 has no bytes for them."""
    answer = record(session_row(**{field: json.loads('"team:\\ud800"')}), session_row())
    assert (answer["inserted"], [each["field"] for each in answer["rejections"]]) == (1, [field])


@pytest.mark.holds("names.recorded")
def test_a_refused_report_keeps_no_name_until_it_is_released(rt: Runtime, id_of: IdOf) -> None:
    assert record(session_row(**NAMED, workspace_class="gold"))["quarantined"] == 1
    assert names(rt) == {}
    with rt.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO price_version (workspace_class, effective_from, credits_per_minute, actor)"
                " VALUES ('gold', '0001-01-01Z', 1, 'test')"
            )
        )
    release = {"actor": ACTOR, "everything": True, "dry_run": False, "at": AT.isoformat()}
    assert call(quarantine.release_quarantined, **release)["released"] == 1
    assert held(rt) == [ids(id_of)]
    assert names(rt) == kept(id_of)


@pytest.mark.holds("names.old-workers")
def test_what_an_older_worker_has_quarantined_is_released(rt: Runtime, id_of: IdOf) -> None:
    """An older worker keeps the report as it came: with the reason that an id must be a UUID."""
    record(session_row(**NAMED, observed_at="not yet"))
    reason = "must be a UUID such as 11111111-2222-4333-8444-555555555555 (got 'ci-1')"
    with rt.transaction() as connection:
        connection.execute(
            text(
                "UPDATE quarantined_report SET field = 'instance_id', reason = :reason,"
                " report = replace(report, '\"observed_at\": \"not yet\", ', '')"
            ),
            {"reason": reason},
        )
    release = {"actor": ACTOR, "reason": "must be a UUID", "dry_run": False, "at": AT.isoformat()}
    assert call(quarantine.release_quarantined, **release)["released"] == 1
    assert held(rt) == [ids(id_of)]
    assert names(rt) == kept(id_of)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.holds("names.recorded")
def test_a_file_may_mix_both_forms(rt: Runtime, id_of: IdOf, tmp_path: Path) -> None:
    session, user, account = ids(id_of)
    stopped = {"stopped_at": START + HOUR, "observed_at": START + HOUR}
    rows = [
        session_row(**NAMED, observed_at=START),
        session_row(instance_id=session, user_id=user, attribution_id=account, **stopped),
        *(session_row(instance_id=f"ci-{n}", user_id="ann", attribution_id="team:acme") for n in range(2, 50)),
    ]
    fields = {"observed_at": "", "stopped_at": ""}
    path = write(tmp_path / "file.csv", *(fields | each for each in rows))
    rehearsed = list(bulk.rehearse_file(rt, path, at=AT, actor=Actor(ACTOR), chunk_lines=5))
    assert sum(each.merged.inserted for each in rehearsed) == 49
    assert names(rt) == {}
    done = list(bulk.import_file(rt, path, at=AT, actor=Actor(ACTOR), chunk_lines=5))
    assert [each.rejections for each in done if each.rejections] == []
    assert sum(each.merged.inserted for each in done) == 49
    assert query(rt, "SELECT stopped_at IS NULL, count(*) FROM workspace_instance GROUP BY 1 ORDER BY 1") == [
        (False, 1),
        (True, 48),
    ]
    assert len(names(rt)) == 49 + 2
    again = list(bulk.import_file(rt, path, at=AT, actor=Actor(ACTOR)))
    assert sum(each.merged.inserted + each.merged.updated for each in again) == 0


def snapshot(*rows: object, at: Any = AT) -> dict[str, Any]:
    asked = {"source": "eu", "instances": list(rows), "actor": ACTOR, "at": at.isoformat()}
    answer: dict[str, Any] = call(sessions.report_running, **asked)
    return answer


@pytest.mark.holds("names.recorded")
def test_a_snapshot_by_name_keeps_what_it_lists_and_a_row_that_is_refused_still_names_its_session(
    rt: Runtime, id_of: IdOf
) -> None:
    listed = [session_row(**NAMED | {"instance_id": name}, source="eu") for name in ("ci-1", "ci-2", "ci-3")]
    assert snapshot(*listed)["inserted"] == 3
    second = id_of("session:ci-2")
    bad = {"instance_id": "ci-1", "started_at": "yesterday"}
    answer = snapshot(bad, listed[1] | {"instance_id": second}, at=AT + HOUR)
    assert (answer["complete"], answer["ended"], answer["unchanged"] + answer["updated"]) == (True, 1, 1)
    ended = "SELECT instance_id::text FROM workspace_instance WHERE inferred_stopped_at IS NOT NULL"
    assert query(rt, ended) == [(id_of("session:ci-3"),)]


@pytest.mark.holds("names.recorded")
def test_a_session_stays_with_its_account_in_either_form(rt: Runtime, id_of: IdOf) -> None:
    record(session_row(**NAMED))
    answer = record(session_row(**NAMED | {"attribution_id": team("other")}))
    assert answer["rejections"][0]["reason"].startswith(f"must be {ids(id_of)[2]}, the account of session")


@pytest.mark.holds("names.recorded")
def test_a_user_and_a_session_of_the_same_name_are_two(rt: Runtime, id_of: IdOf) -> None:
    record(session_row(instance_id="same", user_id="same", attribution_id="user:same"))
    assert held(rt) == [(id_of("session:same"), id_of("user:same"), f"user:{id_of('user:same')}")]
    assert id_of("session:same") != id_of("user:same")


@pytest.mark.holds("names.recorded")
def test_a_display_name_that_was_there_first_gets_the_external_id(rt: Runtime, id_of: IdOf) -> None:
    subject = f"user:{id_of('user:ann')}"
    with rt.transaction() as connection:
        connection.execute(
            text("INSERT INTO directory_name (subject, display_name) VALUES (:subject, 'Ann')"), {"subject": subject}
        )
    record(session_row(**NAMED))
    assert (subject, "ann", "Ann") in query(rt, "SELECT subject, external_id, display_name FROM directory_name")

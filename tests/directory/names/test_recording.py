"""Sessions by external ids: batches, files, snapshots, quarantine; each form is the same session."""

import csv
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from tests.directory.names.conftest import IdOf
from tests.factories import DAY, HOUR, START, call, session_row, team
from usage_tasks import bulk
from usage_tasks.domain.accounts import Actor
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.usage import quarantine, sessions

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


@pytest.mark.holds("names.recorded")
def test_uuids_alone_keep_no_name_and_read_no_namespace(rt: Runtime) -> None:
    assert record(session_row())["inserted"] == 1
    assert names(rt) == {}
    assert "_name_namespace" not in vars(rt)


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

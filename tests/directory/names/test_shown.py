"""Names beside ids: in answers, in words, in commands and in announcements; a display name changes no id."""

import csv
import io
import json
from typing import Any, Final

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from tests.directory.names.conftest import IdOf
from tests.directory.names.test_either_form import NOW, SERVICE
from tests.factories import DAY, HOUR, START, call, make_id, session_row, team
from tests.snapshot import snapshot
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.access import AccessError
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.announcements import BlockUser, UsageAlertTriggered
from usage_tasks.domain.disputes import DisputeId
from usage_tasks.domain.errors import InvalidInputError, NoSuchError
from usage_tasks.runtime import Runtime
from usage_tasks.storage.operations.outbox import announce, claim_announcements
from usage_tasks.tasks import directory
from usage_tasks.tasks.usage import accounts, explain, ledger, limits, report, sessions
from usage_tasks.telemetry.logs import configure_logging

RANGE: Final = {"start": START.isoformat(), "end": (START + DAY).isoformat(), "at": NOW}
BY_ACCOUNT: Final = {"actor": SERVICE, "attribution_id": "team:acme", "at": NOW}


@pytest.fixture
def named(rt: Runtime) -> Runtime:
    """The team acme, "Acme Ltd", with a session of ann's, "Ann", beside a team without a name."""
    TestClock(rt.redis).advance(START + DAY)
    stopped = {"stopped_at": START + HOUR, "observed_at": START + HOUR}
    rows = [
        session_row(instance_id="ci-1", user_id="ann", attribution_id="team:acme", **stopped),
        session_row(**stopped),
    ]
    assert call(sessions.record_instances, instances=rows, actor=SERVICE, at=NOW)["inserted"] == 2
    set_name("Acme Ltd", attribution_id="team:acme")
    set_name("Ann", attribution_id="user:ann")
    call(ledger.reconcile_usage, at=NOW)
    return rt


def set_name(name: str | None, actor: str = SERVICE, **what: str) -> Any:
    return call(directory.set_name, actor=actor, display_name=name, at=NOW, **what)


@pytest.mark.holds("names.shown")
def test_a_report_shows_names_beside_ids_and_nothing_beside_others(named: Runtime, id_of: IdOf) -> None:
    asked = {"actor": SERVICE, "group_by": ["attribution_id", "user_id"]} | RANGE
    rows = {row["attribution_id"]: row for row in call(report.report_usage, **asked)["rows"]}
    acme = f"team:{id_of('team:acme')}"
    figures = {"credit_cents": 600, "seconds": 3600, "sessions": 1}
    assert rows[acme] == {
        "attribution_id": acme,
        "account_external_id": "acme",
        "account_name": "Acme Ltd",
        "user_id": id_of("user:ann"),
        "user_external_id": "ann",
        "user_name": "Ann",
        **figures,
    }
    assert rows[team()] == {"attribution_id": team(), "user_id": str(make_id("owner")), **figures}


@pytest.mark.holds("names.shown")
def test_an_answer_shows_the_names_of_what_was_asked_for(named: Runtime, id_of: IdOf) -> None:
    account = {"account_external_id": "acme", "account_name": "Acme Ltd"}
    for task in (accounts.get_balance, accounts.get_cost_center):
        answer = call(task, **BY_ACCOUNT)
        assert answer.items() >= account.items()
    listed = call(accounts.list_usage, **BY_ACCOUNT | RANGE)
    assert listed.items() >= account.items()
    (entry,) = listed["entries"]
    shown = {"session_external_id": "ci-1", "user_external_id": "ann", "user_name": "Ann"}
    assert entry.items() >= (shown | {"instance_id": id_of("session:ci-1")}).items()
    explained = call(explain.explain_usage, actor=SERVICE, instance_id="ci-1", at=NOW)
    assert explained["session_external_id"] == "ci-1"
    assert explained["numbers"]["facts"].items() >= (account | {"session_external_id": "ci-1"}).items()
    assert explained["text"].splitlines()[1] == "Names: session ci-1; account acme / Acme Ltd."


@pytest.mark.holds("names.shown")
def test_without_names_an_answer_is_as_it_was(named: Runtime) -> None:
    answer = call(accounts.get_balance, **BY_ACCOUNT | {"attribution_id": team()})
    assert set(answer) == {"balance_cents", "spending_limit", "remaining_cents", "limit_state"}


@pytest.mark.holds("names.kept")
def test_an_account_that_is_first_met_in_another_task_keeps_its_external_id(rt: Runtime, id_of: IdOf) -> None:
    set_up = {"billing_strategy": "other", "spending_limit": 7}
    answer = call(accounts.set_cost_center, **BY_ACCOUNT | {"attribution_id": "team:new"} | set_up)
    assert answer["account_external_id"] == "new"
    by_uuid = BY_ACCOUNT | {"attribution_id": f"team:{id_of('team:new')}"}
    assert call(accounts.get_cost_center, **by_uuid) == answer


@pytest.mark.holds("names.kept")
def test_a_refused_call_keeps_no_name(named: Runtime) -> None:
    before = snapshot(named.database)
    with pytest.raises(AccessError):
        call(accounts.get_balance, **BY_ACCOUNT | {"attribution_id": "team:typo", "actor": "user:eve"})
    with pytest.raises(NoSuchError):
        set_name("A name", instance_id="never reported")
    assert snapshot(named.database) == before


@pytest.mark.holds("names.display")
def test_a_new_display_name_changes_no_id_and_is_audited_without_the_name(named: Runtime, id_of: IdOf) -> None:
    before = call(directory.get_name, actor=SERVICE, attribution_id="team:acme")
    after = set_name("Acme GmbH", attribution_id=f"team:{id_of('team:acme')}")
    assert after == before | {"account_name": "Acme GmbH"}
    assert after == call(directory.get_name, actor=SERVICE, attribution_id="team:acme")
    assert after["attribution_id"] == f"team:{id_of('team:acme')}"
    set_name("Acme GmbH", attribution_id="team:acme")
    with named.transaction() as connection:
        noted = "SELECT attribution_id, actor, details FROM audit WHERE action = 'name.set' ORDER BY audit_id"
        rows = [tuple(row) for row in connection.execute(text(noted))]
    of_acme = (f"team:{id_of('team:acme')}", SERVICE)
    assert [row[:2] for row in rows] == [of_acme, (f"user:{id_of('user:ann')}", SERVICE), of_acme]
    assert "Acme" not in json.dumps([row[2] for row in rows])


@pytest.mark.holds("names.display")
def test_a_display_name_can_be_taken_away_and_the_external_id_stays(named: Runtime, id_of: IdOf) -> None:
    nameless = {"instance_id": None, "attribution_id": f"team:{id_of('team:acme')}", "account_external_id": "acme"}
    for _ in range(2):
        assert set_name(None, attribution_id="team:acme") == nameless
    assert set_name("A plain team", attribution_id=team())["account_name"] == "A plain team"
    assert set_name(None, attribution_id=team()) == {"instance_id": None, "attribution_id": team()}
    with named.transaction() as connection:
        assert not connection.execute(text("SELECT 1 FROM directory_name WHERE display_name LIKE 'A%m'")).all()


@pytest.mark.holds("names.display")
def test_a_session_is_named_by_the_owners_of_its_account(named: Runtime, id_of: IdOf) -> None:
    members = [{"user_id": "bob", "role": "owner"}, {"user_id": "ann", "role": "member"}]
    told = {"team_id": "acme", "observed_at": START.isoformat(), "members": members}
    call(directory.upsert_teams, teams=[told], actor=SERVICE, at=NOW)
    assert set_name("Nightly", actor="user:bob", instance_id="ci-1")["instance_id"] == id_of("session:ci-1")
    for actor, what in (
        ("user:ann", {"instance_id": "ci-1"}),
        ("user:ann", {"attribution_id": "team:acme"}),
        ("user:bob", {"attribution_id": "user:ann"}),
        ("user:bob", {"attribution_id": team()}),
        ("user:bob", {"instance_id": "unknown"}),
    ):
        with pytest.raises(AccessError):
            set_name("Mine", actor=actor, **what)
    assert set_name("Me", actor="user:ann", attribution_id="user:ann")["account_name"] == "Me"
    assert call(explain.explain_usage, actor=SERVICE, instance_id="ci-1", at=NOW)["session_name"] == "Nightly"


@pytest.mark.holds("names.display")
@pytest.mark.parametrize("what", [{}, {"attribution_id": "team:acme", "instance_id": "ci-1"}])
def test_one_thing_is_named_at_a_time(named: Runtime, what: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="given without instance_id, or left out with it"):
        set_name("A name", **what)


@pytest.mark.holds("names.deleted")
def test_of_a_deleted_user_no_name_is_kept_and_their_usage_is_found_by_either_form(named: Runtime, id_of: IdOf) -> None:
    gone = {"user_id": "ann", "observed_at": NOW, "deleted": True}
    call(directory.upsert_users, users=[gone], actor=SERVICE, at=NOW)
    row = session_row(instance_id="ci-2", user_id="ann", attribution_id="team:acme")
    call(sessions.record_instances, instances=[row], actor=SERVICE, at=NOW)
    with named.transaction() as connection:
        of_users = "SELECT count(*) FROM directory_name WHERE subject LIKE 'user:%'"
        assert connection.execute(text(of_users)).scalar_one() == 0
    with pytest.raises(InvalidInputError, match="an account whose user is not deleted"):
        set_name("Ann again", attribution_id="user:ann")
    asked = {"actor": SERVICE, "attribution_id": "team:acme", "group_by": ["user_id"]} | RANGE
    (usage,) = call(report.report_usage, **asked)["rows"]
    assert usage["user_id"] == id_of("user:ann")
    assert "user_external_id" not in usage


@pytest.mark.holds("names.announced")
def test_an_announcement_has_the_names_as_they_are_when_it_is_sent(named: Runtime, id_of: IdOf) -> None:
    acme, ann = AttributionId(f"team:{id_of('team:acme')}"), id_of("user:ann")
    alert = UsageAlertTriggered(attribution_id=acme, stripe_alert_id="alrt_1", value=1, at=START)
    plain = UsageAlertTriggered(attribution_id=team(), stripe_alert_id="alrt_2", value=1, at=START)
    block = BlockUser(attribution_id=acme, stripe_dispute_id=DisputeId("du_1"), user_id=make_id("x"), at=START)
    with named.transaction() as connection:
        for message in (alert, plain, block):
            announce(connection, message, once_per=str(id(message)))
        connection.execute(
            text("UPDATE outbox SET payload = payload || CAST(:user AS jsonb) WHERE payload ? 'user_id'"),
            {"user": json.dumps({"user_id": ann})},
        )
        connection.execute(text("INSERT INTO outbox (key, task, payload) VALUES ('odd', 'server.odd', '[1]')"))
    set_name("Acme AG", attribution_id="team:acme")
    with named.transaction() as connection:
        rows = [json.loads(row.payload) for row in claim_announcements(connection, limit=10, lease=HOUR)]
    account = {"account_external_id": "acme", "account_name": "Acme AG"}
    assert (
        rows[0] == {"attribution_id": acme, "stripe_alert_id": "alrt_1", "value": 1, "at": START.isoformat()} | account
    )
    assert set(rows[1]) == {"attribution_id", "stripe_alert_id", "value", "at"}
    assert rows[2].items() >= (account | {"user_external_id": "ann", "user_name": "Ann"}).items()
    assert rows[3] == [1]


def run(*words: str) -> str:
    configure_logging("WARNING")
    done = CliRunner().invoke(cli, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


FROM_TO: Final = ("--from", "2026-01-01", "--to", "2026-01-02", "--at", "2026-01-02")


@pytest.mark.holds("names.commands")
def test_commands_take_either_form_and_show_names(named: Runtime, id_of: IdOf) -> None:
    acme, session = f"team:{id_of('team:acme')}", id_of("session:ci-1")
    assert run("explain", "ci-1") == run("explain", session)
    assert "account acme / Acme Ltd" in run("explain", "ci-1")
    assert run("grants", "team:acme") == run("grants", acme)
    assert run("release", "ci-1") == run("release", session) == "it was not capped\n"
    by_user = ("report", *FROM_TO, "--by", "user_id", "--format", "csv")
    assert run(*by_user, "--account", "team:acme") == run(*by_user, "--account", acme)
    by_account = ("report", *FROM_TO, "--by", "attribution_id", "--format")
    rows = {row["attribution_id"]: row for row in csv.DictReader(io.StringIO(run(*by_account, "csv")))}
    assert rows[acme]["account_name"] == "Acme Ltd"
    assert list(rows[team()].values()) == [team(), "600", "3600", "1", "", ""]
    assert f"{acme}\tacme\tAcme Ltd\t6.00\t1:00:00\t1" in run(*by_account, "table").splitlines()
    lines = [json.loads(line) for line in run(*by_account, "json").splitlines()]
    assert {line.get("account_external_id") for line in lines} == {"acme", None}


@pytest.mark.holds("names.commands")
def test_a_report_without_names_has_the_columns_of_before(rt: Runtime) -> None:
    TestClock(rt.redis).advance(START + DAY)
    call(sessions.record_instances, instances=[session_row(stopped_at=START + HOUR)], actor=SERVICE, at=NOW)
    printed = run("report", *FROM_TO, "--by", "attribution_id", "--format", "csv")
    assert printed.splitlines()[0] == "attribution_id,credit_cents,seconds,sessions"


@pytest.mark.holds("names.commands", "names.namespace")
def test_names_are_shown_and_set_by_command_and_the_namespace_outlives_a_new_installation(
    named: Runtime, id_of: IdOf
) -> None:
    acme = f"team:{id_of('team:acme')}"
    assert json.loads(run("names", "show", acme)) == json.loads(run("names", "show", "team:acme"))
    assert json.loads(run("names", "set", "session:ci-1", "Nightly"))["session_name"] == "Nightly"
    assert "session_name" not in json.loads(run("names", "set", "session:ci-1", ""))
    before = run("names", "namespace")
    run("installation", "new")
    assert run("names", "namespace") == before
    assert id_of("team:acme") in acme


@pytest.mark.holds("names.namespace")
@pytest.mark.parametrize(
    "change", ["UPDATE directory_namespace SET namespace = gen_random_uuid()", "DELETE FROM directory_namespace"]
)
def test_the_namespace_never_changes(rt: Runtime, change: str) -> None:
    with pytest.raises(Exception, match="is refused: its rows are never changed"), rt.transaction() as connection:
        connection.execute(text(change))


@pytest.mark.holds("names.commands")
def test_a_bad_id_of_a_command_is_an_error_of_usage(rt: Runtime) -> None:
    done = CliRunner().invoke(cli, ["grants", "acme"])
    assert done.exit_code == 2
    assert "must be team:<id> or user:<id> (got 'acme')" in " ".join(done.output.split())


@pytest.mark.holds("names.shown")
def test_an_answer_that_programs_ask_for_often_has_no_names_and_keeps_that_of_its_account(
    named: Runtime, id_of: IdOf
) -> None:
    for account in ("acme", "new"):
        answer = call(limits.check_entitlement, **BY_ACCOUNT | {"attribution_id": f"team:{account}"})
        by_uuid = BY_ACCOUNT | {"attribution_id": f"team:{id_of(f'team:{account}')}"}
        assert answer == call(limits.check_entitlement, **by_uuid)
        assert not [field for field in answer if field.startswith("account_")]
    kept = call(directory.get_name, actor=SERVICE, attribution_id=f"team:{id_of('team:new')}")
    assert kept["account_external_id"] == "new"


@pytest.mark.holds("names.commands")
def test_a_list_of_a_command_shows_names(named: Runtime, id_of: IdOf) -> None:
    rows = [session_row(instance_id="ci-2", user_id="ann", attribution_id="team:acme"), session_row(instance_id="ci-3")]
    call(sessions.record_instances, instances=rows, actor=SERVICE, at=NOW)
    with named.transaction() as connection:
        capped = "UPDATE workspace_instance SET capped_at = started_at, cap_reason = 'heartbeat' WHERE final_at IS NULL"
        connection.execute(text(capped))
    listed = {line["session_external_id"]: line for line in map(json.loads, run("zombies").splitlines())}
    account = {"account_external_id": "acme", "account_name": "Acme Ltd"}
    assert listed["ci-2"].items() >= (account | {"instance_id": id_of("session:ci-2")}).items()
    assert [name for name in listed["ci-3"] if name.endswith("name")] == []
    assert run("release", "ci-2").startswith("released: heartbeat at ")
    assert run("release", id_of("session:ci-2")) == "it was not capped\n"

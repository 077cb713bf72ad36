"""Users and teams by external ids: roles hold in either form; of a deleted user no name is kept, whoever is first."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from sqlalchemy import text

from tests.directory.names.conftest import IdOf
from tests.factories import DAY, START, call, session_row
from tests.ledger.test_posting import wait_until_blocked
from usage_tasks.domain.access import AccessError
from usage_tasks.domain.accounts import ExternalName
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.storage.directory.names import keep_external_ids
from usage_tasks.tasks import directory
from usage_tasks.tasks.usage import accounts, sessions

SERVICE: Final = "service:tests"
NOW: Final = (START + DAY).isoformat()


def report_users(*users: dict[str, Any]) -> Any:
    rows = [{"observed_at": START.isoformat()} | user for user in users]
    return call(directory.upsert_users, users=rows, actor=SERVICE, at=NOW)


def report_team(team_id: str, **roles: str) -> Any:
    members = [{"user_id": user_id, "role": role} for user_id, role in roles.items()]
    team = {"team_id": team_id, "observed_at": START.isoformat(), "members": members}
    return call(directory.upsert_teams, teams=[team], actor=SERVICE, at=NOW)


def names(rt: Runtime) -> dict[str, str]:
    with rt.transaction() as connection:
        rows = connection.execute(text("SELECT subject, external_id FROM directory_name"))
        return {row.subject: row.external_id for row in rows}


@pytest.mark.holds("names.recorded")
def test_users_and_teams_by_name_are_those_by_uuid_and_their_names_are_kept(rt: Runtime, id_of: IdOf) -> None:
    assert report_users({"user_id": "ann"}, {"user_id": "bob"})["applied"] == 2
    assert report_team("acme", ann="owner", bob="member", cyd="member")["applied"] == 1
    assert report_users({"user_id": id_of("user:ann")}) == {"applied": 0, "ignored": 1}
    assert names(rt) == {f"team:{id_of('team:acme')}": "acme"} | {
        f"user:{id_of(f'user:{name}')}": name for name in ("ann", "bob", "cyd")
    }


@pytest.mark.holds("names.either-form")
def test_a_role_is_that_of_the_user_and_the_team_in_either_form(rt: Runtime, id_of: IdOf) -> None:
    report_team("acme", ann="owner", bob="member")
    for account in ("team:acme", f"team:{id_of('team:acme')}"):
        for owner in ("user:ann", f"user:{id_of('user:ann')}"):
            assert call(accounts.get_balance, attribution_id=account, actor=owner, at=NOW)["account_external_id"]
        with pytest.raises(AccessError, match=f"user:{id_of('user:bob')} may not do this with team:"):
            call(accounts.get_balance, attribution_id=account, actor="user:bob", at=NOW)


@pytest.mark.holds("names.either-form")
def test_a_user_by_name_and_by_uuid_in_one_team_is_there_twice(rt: Runtime, id_of: IdOf) -> None:
    with pytest.raises(InvalidInputError, match=r"`teams\.0`: must be a team with each user once in `members`"):
        report_team("acme", **{"ann": "owner", id_of("user:ann"): "member"})
    assert names(rt) == {}


@pytest.mark.holds("names.deleted")
def test_a_deletion_in_a_worker_that_knows_no_names_forgets_them(rt: Runtime, id_of: IdOf) -> None:
    report_users({"user_id": "ann"}, {"user_id": "bob"})
    with rt.transaction() as connection:
        connection.execute(
            text("UPDATE directory_user SET deleted = true WHERE user_id = CAST(:ann AS uuid)"),
            {"ann": id_of("user:ann")},
        )
    assert names(rt) == {f"user:{id_of('user:bob')}": "bob"}


@pytest.mark.holds("names.deleted")
def test_whoever_deletes_a_user_waits_for_those_who_keep_their_name(rt: Runtime, id_of: IdOf) -> None:
    report_users({"user_id": id_of("user:ann")})
    gone = {"user_id": "ann", "observed_at": NOW, "deleted": True}
    with ThreadPoolExecutor() as pool:
        with rt.transaction() as connection:
            keep_external_ids(connection, [ExternalName(f"user:{id_of('user:ann')}", "ann")])
            deleted = pool.submit(report_users, gone)
            wait_until_blocked(rt.database)
        assert deleted.result()["applied"] == 1
    assert names(rt) == {}


@pytest.mark.holds("names.deleted")
def test_whoever_keeps_a_name_waits_for_a_deletion_and_keeps_none(rt: Runtime, id_of: IdOf) -> None:
    report_users({"user_id": id_of("user:ann")})
    row = session_row(instance_id="ci-1", user_id="ann")
    with ThreadPoolExecutor() as pool:
        with rt.transaction() as connection:
            connection.execute(text("UPDATE directory_user SET deleted = true"))
            recorded = pool.submit(call, sessions.record_instances, instances=[row], actor=SERVICE, at=NOW)
            wait_until_blocked(rt.database)
        assert recorded.result()["inserted"] == 1
    assert names(rt) == {f"session:{id_of('session:ci-1')}": "ci-1"}

"""Every task that takes an id, found by its signature, answers alike by the UUID and by the external id."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.directory.names.conftest import IdOf
from tests.factories import DAY, HOUR, START, call, session_row
from tests.tasks.test_access import NEEDED
from usage_tasks.celery import app
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import Runtime
from usage_tasks.settings import SettingsError
from usage_tasks.tasks import directory
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS
from usage_tasks.tasks.usage import ledger, sessions

SERVICE: Final = "service:tests"
NOW: Final = (START + DAY).isoformat()
BY_NAME: Final = {
    "attribution_id": "team:acme",
    "after": "team:acme",
    "instance_id": "ci-1",
    "user_id": "ann",
    "billing_creator_user_id": "ann",
    "actor": "user:ann",
}
"""Each argument that takes an id, by its name."""

WITHOUT_ACTOR: Final[Mapping[str, dict[str, Any]]] = {"billing.drift_report": {"at": NOW}}
ROWS_WITH_IDS: Final = {"SessionReport", "UserReport", "TeamReport", "Member"}
"""The rows within arguments that have ids; test_recording.py and test_directory.py report each."""


def by_uuid(id_of: IdOf) -> dict[str, str]:
    account = f"team:{id_of('team:acme')}"
    ann = id_of("user:ann")
    return {
        "attribution_id": account,
        "after": account,
        "instance_id": id_of("session:ci-1"),
        "user_id": ann,
        "billing_creator_user_id": ann,
        "actor": f"user:{ann}",
    }


def takes_id(schema: Mapping[str, Any]) -> bool:
    described = [schema, *schema.get("anyOf", [])]
    return any("<id>" in each.get("description", "") or "own id" in each.get("description", "") for each in described)


def objects(schema: object) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        schema = [*schema.values()]
    if isinstance(schema, list):
        for each in schema:
            yield from objects(each)


@pytest.fixture(autouse=True)
def declared(rt: Runtime) -> None:
    """Every task, which an application loads by its settings."""
    app.loader.import_default_modules()


@pytest.mark.holds("names.either-form")
def test_every_id_in_every_signature_is_known_here() -> None:
    assert {
        argument
        for schema in ARGUMENT_SCHEMAS.values()
        for argument, of in schema["properties"].items()
        if takes_id(of)
    } == set(BY_NAME)
    rows = {
        each["title"]
        for name, schema in ARGUMENT_SCHEMAS.items()
        for each in objects(schema)
        if "properties" in each
        and each is not ARGUMENT_SCHEMAS[name]
        and any(map(takes_id, each["properties"].values()))
    }
    assert rows == ROWS_WITH_IDS
    assert '"uuid"' not in json.dumps(dict(ARGUMENT_SCHEMAS)), "an id that takes UUIDs only"
    taking = {name for name, schema in ARGUMENT_SCHEMAS.items() if any(map(takes_id, schema["properties"].values()))}
    assert taking == set(NEEDED) | set(WITHOUT_ACTOR)


@pytest.fixture
def lived_in(rt: Runtime) -> Runtime:
    """The team acme of the administrator ann with a session that has stopped and is posted."""
    user = {"user_id": "ann", "observed_at": START.isoformat(), "administrator": True}
    members = [{"user_id": "ann", "role": "owner"}]
    team = {"team_id": "acme", "observed_at": START.isoformat(), "members": members}
    call(directory.upsert_users, users=[user], actor=SERVICE, at=NOW)
    call(directory.upsert_teams, teams=[team], actor=SERVICE, at=NOW)
    row = session_row(
        instance_id="ci-1",
        user_id="ann",
        attribution_id="team:acme",
        stopped_at=START + HOUR,
        observed_at=START + HOUR,
    )
    assert call(sessions.record_instances, instances=[row], actor=SERVICE, at=NOW)["inserted"] == 1
    call(ledger.reconcile_usage, at=NOW)
    return rt


def outcome(name: str, arguments: Mapping[str, Any]) -> object:
    try:
        answer = call(app.tasks[name], **arguments)
    except (PermanentError, SettingsError) as error:
        return type(error), str(error)
    if isinstance(answer, dict):
        answer.pop("version", None)  # of a cost center that is set twice
    return answer


@pytest.mark.holds("names.either-form")
@pytest.mark.parametrize("name", [*NEEDED, *WITHOUT_ACTOR])
def test_a_task_answers_alike_by_either_form(lived_in: Runtime, id_of: IdOf, name: str) -> None:
    arguments = NEEDED[name][1] if name in NEEDED else WITHOUT_ACTOR[name]
    properties = ARGUMENT_SCHEMAS[name]["properties"]
    ids = {argument for argument in BY_NAME if argument in properties}
    if "attribution_id" in ids and "instance_id" in ids:
        ids -= {"attribution_id"} if "instance_id" in arguments else {"instance_id"}
    rest = {argument: value for argument, value in arguments.items() if argument not in BY_NAME}
    mine = {argument: by_uuid(id_of)[argument] for argument in ids}
    theirs = {argument: BY_NAME[argument] for argument in ids}
    upper = {
        argument: value.replace(id_of("team:acme"), id_of("team:acme").upper()) for argument, value in mine.items()
    }
    first = outcome(name, rest | mine)
    assert outcome(name, rest | theirs) == first
    assert outcome(name, rest | upper) == first
    if name.startswith("usage."):
        assert isinstance(first, dict), "the task has answered"


@pytest.mark.holds("names.either-form")
def test_an_entry_is_explained_by_either_form_of_its_account(lived_in: Runtime, id_of: IdOf) -> None:
    asked = {"entry_key": f"session:{id_of('session:ci-1')}:1", "at": NOW}
    explained = outcome("usage.explain", asked | {"attribution_id": "team:acme", "actor": "user:ann"})
    assert isinstance(explained, dict)
    assert explained == outcome(
        "usage.explain", asked | {"attribution_id": by_uuid(id_of)["attribution_id"], "actor": SERVICE}
    )
    assert "Names: session ci-1; account acme." in explained["text"].splitlines()


@pytest.mark.holds("names.either-form")
def test_a_positional_call_is_resolved_too(lived_in: Runtime) -> None:
    assert app.tasks["usage.get_balance"]("team:acme", "user:ann", NOW)["account_external_id"] == "acme"


@pytest.mark.holds("names.refused")
@pytest.mark.parametrize("bad", ["", " acme", "0" * 32, "x" * 201])
def test_a_bad_id_refuses_its_call_by_the_name_of_the_argument(rt: Runtime, bad: str) -> None:
    refused = outcome("usage.get_balance", {"attribution_id": f"team:{bad}", "actor": SERVICE, "at": NOW})
    assert isinstance(refused, tuple)
    assert refused[1].startswith("`attribution_id`: must be team:<id>, with an id that is a UUID such as ")

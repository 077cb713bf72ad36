import json
from dataclasses import fields

import jsonschema_rs
import pytest
from typer.testing import CliRunner

from usage_tasks.cli import cli
from usage_tasks.domain.announcements import ANNOUNCEMENTS
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.schemas import list_schemas
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS

AT = "2026-01-31T10:00:00+00:00"
PARKED = {"attribution_id": "team:x", "reason": "why", "quantity": None, "as_of": None, "at": AT}
FAILING = {"attribution_id": "team:x", "failing_since": AT, "reminders": 0, "at": AT}


def takes(name: str, payload: object) -> bool:
    return jsonschema_rs.validator_for(list_schemas()[name], validate_formats=True).is_valid(payload)


def test_the_command_prints_the_schemas_of_tasks_and_of_messages_to_the_platform(rt: Runtime) -> None:
    printed = json.loads(CliRunner().invoke(cli, ["schemas"]).stdout)
    assert printed == list_schemas()
    assert set(printed) == set(ARGUMENT_SCHEMAS) | set(ANNOUNCEMENTS)
    assert {"usage.reconcile", "server.block_user"} <= set(printed)


@pytest.mark.parametrize("name", ANNOUNCEMENTS)
def test_the_schema_of_a_message_requires_every_field_and_allows_no_other(name: str) -> None:
    schema = list_schemas()[name]
    assert jsonschema_rs.meta.is_valid(schema)
    assert schema["required"] == [each.name for each in fields(ANNOUNCEMENTS[name])]
    assert schema["additionalProperties"] is False


def test_a_schema_takes_what_is_sent_and_refuses_anything_else() -> None:
    assert takes("server.account_parked", PARKED)
    assert takes("server.account_parked", PARKED | {"quantity": 5, "as_of": AT})
    for change in ({"reason": None}, {"at": "yesterday"}, {"quantity": "5"}, {"colour": "red"}):
        assert not takes("server.account_parked", PARKED | change)
    assert not takes("server.account_parked", {name: value for name, value in PARKED.items() if name != "as_of"})


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("payment_failed", {"grace"}),
        ("payment_reminder", {"reminder"}),
        ("suspend_account", {"suspended"}),
        ("resume_account", {"grace", "reminder", "none"}),
        ("payment_settled", {"none"}),
    ],
)
def test_a_step_of_dunning_has_the_states_that_it_leads_to(name: str, states: set[str]) -> None:
    every = ["grace", "reminder", "suspended", "none", "other"]
    assert {state for state in every if takes(f"server.{name}", FAILING | {"state": state})} == states

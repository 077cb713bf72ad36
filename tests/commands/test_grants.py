import json

from typer.testing import CliRunner

from tests.factories import DAY, START, give, team
from usage_tasks.cli import cli
from usage_tasks.runtime import Runtime


def test_an_accounts_grants_are_listed_as_json_lines(rt: Runtime) -> None:
    with rt.transaction() as connection:
        give(connection, 100)
        give(connection, 300)
    done = CliRunner().invoke(cli, ["grants", team(), "--at", (START + DAY).strftime("%Y-%m-%dT%H:%M:%S")])
    assert done.exit_code == 0, done.output
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["number"], each["remaining_cents"]) for each in listed] == [(2, 300), (1, 100)]


def test_a_wrong_attribution_is_a_usage_error(rt: Runtime) -> None:
    done = CliRunner().invoke(cli, ["grants", "team:x "])
    assert done.exit_code == 2
    assert "ATTRIBUTION" in done.output

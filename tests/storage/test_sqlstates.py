"""The table of SQLSTATEs: a decision for each state, and the driver's real errors follow it."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from usage_tasks.domain.errors import ConnectionSettingsError, InvariantError, RetryableError
from usage_tasks.storage.engine import Database
from usage_tasks.storage.sqlstates import CACHED_PLAN, CLASSES, STATES, UNKNOWN, Rule, Treatment, find_rule

PAGE = Path(__file__).parents[2] / "docs" / "database-errors.md"
ALL = sorted(each for each in vars(psycopg.errors)["_sqlcodes"] if len(each) == 5 and each.upper() == each)
KIND = {
    Treatment.PERMANENT: InvariantError,
    Treatment.TRANSIENT: RetryableError,
    Treatment.RECONNECT: RetryableError,
    Treatment.SETTINGS: ConnectionSettingsError,
}


def test_every_state_that_the_driver_knows_has_a_decision_of_its_class() -> None:
    assert len(ALL) > 240
    assert [each for each in ALL if find_rule(each) is UNKNOWN] == []
    assert {each[:2] for each in ALL} == set(CLASSES), "a class that no state has"
    assert set(STATES) <= set(ALL), "a state that the driver does not know"


@pytest.mark.parametrize(
    ("treatment", "states"),
    [
        (Treatment.PERMANENT, "0A000 22003 22P02 23505 23514 42601 54000 55P04 P0001 XX001 XX002 25001 40002"),
        (Treatment.TRANSIENT, "25P02 40001 40P01 42P01 42703 42883 42P10 3F000 53100 53300 55006 55P03 57014 72000"),
        (Treatment.RECONNECT, "08006 25006 25P03 25P04 26000 34000 40003 42P05 57P01 57P05 58030 58P01 XX000"),
        (Treatment.SETTINGS, "28000 28P01 3D000 42501"),
    ],
)
def test_the_states_that_were_met_are_treated_as_decided(treatment: Treatment, states: str) -> None:
    assert {each: find_rule(each).treatment for each in states.split()} == dict.fromkeys(states.split(), treatment)


def test_a_cached_plan_is_not_taken_for_a_missing_feature() -> None:
    assert find_rule("0A000", source_function="RevalidateCachedQuery").treatment is Treatment.RECONNECT
    assert find_rule("0A000", source_function="ATPrepAlterColumnType").treatment is Treatment.PERMANENT


def test_a_state_that_nobody_knows_is_tried_again() -> None:
    assert find_rule("ZZ001").treatment is Treatment.RECONNECT
    assert find_rule("23ZZZ") is CLASSES["23"]


def fail_with(database: Database, sqlstate: str, pids: list[int]) -> None:
    with database.transaction() as connection:
        pids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{sqlstate}'; END $$")


@pytest.mark.parametrize("sqlstate", [*ALL, "ZZ001", "57X99"])
def test_an_error_of_the_server_becomes_what_the_table_says(shared_database: Database, sqlstate: str) -> None:
    rule, pids = find_rule(sqlstate), list[int]()
    for _ in range(2):
        with pytest.raises((InvariantError, RetryableError), match=f"{sqlstate} on purpose") as raised:
            fail_with(shared_database, sqlstate, pids)
        assert type(raised.value) is KIND[rule.treatment]
    assert (pids[0] != pids[1]) is (rule.treatment in {Treatment.RECONNECT, Treatment.SETTINGS})


def test_the_page_has_the_table() -> None:
    assert rows() == [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]


def rows() -> list[str]:
    """The lines of the page: each class, and below it each of its states with a rule of its own."""
    lines = []
    for prefix, rule in CLASSES.items():
        lines.append(_row(f"{prefix}xxx", rule))
        lines += [_row("0A000, cached plan", CACHED_PLAN)] if prefix == "0A" else []
        lines += [_row(state, STATES[state]) for state in sorted(STATES) if state[:2] == prefix]
    return [*lines, _row("any other", UNKNOWN)]


def _row(name: str, rule: Rule) -> str:
    return f"| `{name}` | {rule.treatment} | {rule.reason} |"


if __name__ == "__main__":
    print("\n".join(rows()))  # noqa: T201 - for docs/database-errors.md

"""No float comes near money: neither in its decisions nor in its storage."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

PACKAGE = Path(__file__).parents[1] / "usage_tasks"
COLUMNS = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"


def floats_in(source: str) -> Iterator[str]:
    """Find literals with a point, the name `float`, and the built-in `round`, which rounds half to even.

    A field that ends in `_seconds` may be a float: a duration for display, which nobody pays for.
    """
    nodes = list(ast.walk(ast.parse(source)))
    shown = {
        name
        for node in nodes
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target).endswith("_seconds")
        for name in ast.walk(node.annotation)
    }
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"line {node.lineno}: {node.value}"
        elif isinstance(node, ast.Name) and node.id in {"float", "round"} and node not in shown:
            yield f"line {node.lineno}: {node.id}"


@pytest.mark.holds("lesson.floats")
@pytest.mark.parametrize("floor", ["domain", "storage", "bulk"])
def test_what_decides_about_money_has_no_float(floor: str) -> None:
    files = sorted((PACKAGE / floor).rglob("*.py"))
    assert files
    found = {file.name: list(floats_in(file.read_text())) for file in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_float_would_be_found() -> None:
    told = sorted(floats_in("x = 0.5\ny = float(x)\nz = round(y)\ncents: float\nlag_seconds: float | None"))
    assert told == ["line 1: 0.5", "line 2: float", "line 3: round", "line 4: float"]


@pytest.mark.holds("lesson.floats")
def test_no_column_holds_a_float(connection: Connection) -> None:
    types = {(row.table_name, row.column_name): row.data_type for row in connection.execute(text(COLUMNS))}
    assert [name for name, kind in types.items() if kind in {"real", "double precision"}] == []
    cents = {kind for (_, column), kind in types.items() if column.endswith("_cents")}
    assert cents <= {"bigint", "integer"}
    assert types["price_version", "credits_per_minute"] == "numeric"

import ast
import re
from pathlib import Path

from tests.stripe_simulator.contract import TABLE, rows
from usage_tasks.stripe_simulator.operations.routes import OPERATIONS

ROOT = Path(__file__).parents[2]


def test_the_table_has_each_operation_once_in_order() -> None:
    listed = [row.operation for row in rows()]
    assert listed == sorted(f"{operation.method} {operation.path}" for operation in OPERATIONS)
    assert len(listed) == len([line for line in TABLE.read_text().splitlines() if re.match(r"\| `[A-Z]+ /", line)])


def test_the_table_has_each_call_of_our_client() -> None:
    gateway = (ROOT / "usage_tasks" / "stripe_gateway").glob("*.py")
    calls = {name for module in gateway for name in re.findall(r"_call\(\s*\"([a-z_.]+)\"", module.read_text())}
    assert calls
    assert {row.call for row in rows() if row.call} == calls


def test_the_tests_of_the_table_exist() -> None:
    for row in rows():
        parsed = ast.parse((Path(__file__).parent / row.module).read_text())
        assert row.test in {node.name for node in parsed.body if isinstance(node, ast.FunctionDef)}, row

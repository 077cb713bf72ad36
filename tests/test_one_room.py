"""Some things are written in one module each: inserts of entries, of messages and of audit; names; natural keys."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from usage_tasks.domain.ledger import KeyPrefix

PACKAGE = Path(__file__).parents[1] / "usage_tasks"
PREFIXES = "|".join(re.escape(prefix) for prefix in KeyPrefix)
ROOMS = [
    (r"INSERT\s+INTO\s+ledger_entry\b", "storage/ledger/entries.py"),
    (r"INSERT\s+INTO\s+outbox\b", "storage/operations/outbox.py"),
    (r"INSERT\s+INTO\s+audit\b", "storage/operations/audit.py"),
    (r"(^|['\"])server\.", "domain/announcements.py"),
    # A space after a prefix is the beginning of an error message.
    (rf"(^|['\"])({PREFIXES})(?! )", "domain/ledger.py"),
]


def texts_in(source: str) -> Iterator[str]:
    """Find every string but docstrings, and every part of an f-string."""
    tree = ast.parse(source)
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


@pytest.mark.parametrize(("pattern", "room"), ROOMS, ids=[room for _, room in ROOMS])
def test_it_is_written_in_one_module(pattern: str, room: str) -> None:
    files = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    found = {
        name
        for name, path in files.items()
        if not name.startswith("storage/migrations/")
        and any(re.search(pattern, text) for text in texts_in(path.read_text()))
    }
    assert found == {room}, f"this belongs in {room}; take its function or its part of a statement (docs/adr/0023)"


@pytest.mark.parametrize(
    "source",
    [
        "x = 'INSERT INTO outbox (key) VALUES (1)'",
        "f(f\"SELECT {x} WHERE key = 'session:' || {y}\")",
        "f(f'grant:{number}')",
        "TASK = 'server.block_user'",
    ],
)
def test_it_is_found_where_else_it_is_written(source: str) -> None:
    assert any(re.search(pattern, text) for pattern, _ in ROOMS for text in texts_in(source))


LEASE_COMPARED = r"claimed_until IS NULL OR|next_attempt_at <="


def test_no_statement_judges_by_itself_whether_a_lease_is_over() -> None:
    storage = PACKAGE / "storage"
    found = {
        str(path.relative_to(PACKAGE))
        for path in storage.rglob("*.py")
        if "migrations" not in path.parts
        and any(re.search(LEASE_COMPARED, part) for part in texts_in(path.read_text()))
    }
    assert found == set(), "take is_free and is_due of storage/leases.py: a clock may have been set back"
    assert any(re.search(LEASE_COMPARED, part) for part in texts_in("f(f'(claimed_until IS NULL OR {x} < {now})')"))


def clock_reads_in_transactions(source: str) -> Iterator[str]:
    """Find each reading of the clock in a transaction: it takes a second connection, and threads share five.

    A command has one thread.
    """
    for block in ast.walk(ast.parse(source)):
        if isinstance(block, ast.With) and any("transaction()" in ast.unparse(item) for item in block.items):
            for node in ast.walk(ast.Module(body=block.body, type_ignores=[])):
                if isinstance(node, ast.Call) and re.fullmatch(CLOCK_READ, ast.unparse(node.func)):
                    yield ast.unparse(node)


CLOCK_READ = r"(\w+\.)*(rt|runtime\(\)|fenced|self)\.(now|instant|effective_instant|settling_instant|arrival)"


def test_no_transaction_reads_the_clock() -> None:
    found = {
        str(path.relative_to(PACKAGE)): reads
        for path in PACKAGE.rglob("*.py")
        if not {"stripe_simulator", "commands"} & set(path.parts)
        and (reads := list(clock_reads_in_transactions(path.read_text())))
    }
    assert found == {}, "read the clock before the transaction begins (docs/adr/0024)"


def test_a_clock_that_is_read_in_a_transaction_is_found() -> None:
    source = "with rt.transaction() as connection:\n    act(connection, at=rt.instant(at))"
    assert list(clock_reads_in_transactions(source)) == ["rt.instant(at)"]

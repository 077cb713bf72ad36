"""Write docs/traceability.md: which tests hold each row of docs/semantics.md and docs/lessons.md.

    python -m tests.traceability

A row's id is its first column. A test names the rows that it holds: `@pytest.mark.holds("numbers.rounding")`. Only text
is read: no test is imported or run. Whether a test checks enough of its row is for a reader to judge.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
WRITTEN: Final = ROOT / "docs" / "traceability.md"
_SOURCES: Final = (("semantics.md", ""), ("lessons.md", "Lessons"))
_ID: Final = re.compile(r"`([a-z]+(?:-[a-z]+)*\.[a-z0-9]+(?:-[a-z0-9]+)*)`")
_NOT_BUILT: Final = re.compile(r"\(not built[^)]*\)")
_HEAD: Final = """\
# Which tests hold each row

Every row of the [semantics](semantics.md) and the [lessons](lessons.md) with the tests that fail if the row no longer
holds. A row that is not built, in part or in full, is marked with "(not built)" in its own table and here.

Generated: a test names its rows with `@pytest.mark.holds("numbers.rounding")`; `make traceability` writes this file.
`tests/test_traceability.py` fails if the file differs from the markers, if a row has neither a test nor the
words "(not built)", or if a marker names no row.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table: the heading above it, its id, its subject, and its words "(not built ...)"."""

    section: str
    id: str
    subject: str
    not_built: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A marker on a test: the test, as pytest takes it, and the row that it names."""

    test: str
    row: str


def read_rows() -> list[Row]:
    """Read the rows of both documents, in their order."""
    return [
        row
        for document, section in _SOURCES
        for row in parse_rows((ROOT / "docs" / document).read_text(), section=section)
    ]


def parse_rows(text: str, *, section: str = "") -> Iterator[Row]:
    """Read every row of a document's tables. Raises ValueError for a row without an id.

    The first line of a table names its columns; a subject that is empty, or only a number, is the next column's.
    """
    for before, line in pairwise(["", *text.splitlines()]):
        if heading := re.fullmatch(r"## (.+)", line):
            section = heading[1]
        is_edge = set(line) <= {"|", "-"} or not before.startswith("|")
        if line.startswith("|") and not is_edge:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found = _ID.fullmatch(cells[0])
            if found is None:
                raise ValueError(f"{section}: a row must begin with its id, as `numbers.rounding` (got {cells[0]!r})")
            subject = next(cell for cell in cells[1:] if cell and not cell.isdecimal())
            not_built = "; ".join(_NOT_BUILT.findall(line))
            yield Row(section=section, id=found[1], subject=subject, not_built=not_built)


def read_marks() -> list[Mark]:
    """Read the markers of every test, by file and place."""
    return [
        mark
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        for mark in parse_marks(file.read_text(), file=file.relative_to(ROOT).as_posix())
    ]


def parse_marks(source: str, *, file: str) -> Iterator[Mark]:
    """Read the markers of one file. Raises ValueError where a marker can't be read as text, or is not on a test."""
    body = ast.parse(source).body
    tests = [
        it for it in body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef) and it.name.startswith("test_")
    ]
    on_tests = {id(it): test.name for test in tests for it in test.decorator_list if _is_marker(it)}
    for it in ast.walk(ast.Module(body=body, type_ignores=[])):
        if isinstance(it, ast.Call) and _is_marker(it):
            if id(it) not in on_tests:
                raise ValueError(f"{file}:{it.lineno}: `holds` must mark a test function")
            for argument in it.args:
                if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                    raise ValueError(f"{file}:{it.lineno}: `holds` must name its rows as literal text")
                yield Mark(test=f"{file}::{on_tests[id(it)]}", row=argument.value)


def _is_marker(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.holds"


def group_by_row(marks: Iterable[Mark]) -> Mapping[str, Sequence[str]]:
    """Group the tests by the row that they hold."""
    held: dict[str, list[str]] = {}
    for mark in marks:
        held.setdefault(mark.row, []).append(mark.test)
    return held


def render(rows: Sequence[Row], held: Mapping[str, Sequence[str]]) -> str:
    """Render the document: a table for each section."""
    return _HEAD + "".join(
        f"\n## {section}\n| id | row | held by |\n|---|---|---|\n" + "".join(_line(row, held) for row in group)
        for section, group in groupby(rows, key=lambda row: row.section)
    )


def _line(row: Row, held: Mapping[str, Sequence[str]]) -> str:
    tests = [f"`{test}`" for test in held.get(row.id, ())]
    words = [row.not_built] if row.not_built else []
    return f"| `{row.id}` | {row.subject} | {'<br>'.join(tests + words)} |\n"


if __name__ == "__main__":
    WRITTEN.write_text(render(read_rows(), group_by_row(read_marks())))

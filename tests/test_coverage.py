"""docs/coverage.md says which tests hold each row of the semantics and the lessons; here, that it says so truly.

Only text is read: no test is imported or run. Whether a test says enough about its row is for a reader.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOT_BUILT = "not built"
LESSONS = "Lessons"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table: the heading above it, its first column (the second, where that is empty), and the others."""

    section: str
    name: str
    others: str

    @property
    def key(self) -> tuple[str, str]:
        return self.section, self.name


def rows_of(document: str, *, section: str = "") -> list[Row]:
    """Read every row of a document's tables; the first line of a table names its columns."""
    return list(_rows((DOCS / document).read_text(), section))


def _rows(text: str, section: str) -> Iterator[Row]:
    lines = ["", *text.splitlines()]
    for before, line in pairwise(lines):
        if heading := re.fullmatch(r"## (.+)", line):
            section = heading[1]
        is_edge = set(line) <= {"|", "-"} or not before.startswith("|")
        if line.startswith("|") and not is_edge:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            yield Row(section=section, name=cells[0] or cells[1], others=" | ".join(cells[1:]))


def lessons_not_built() -> set[tuple[str, str]]:
    """The lessons that the sentence above their table excepts, in full or in part."""
    sentence = re.search(r"Not built yet: ([^.]*)\.", (DOCS / "lessons.md").read_text())
    return {(LESSONS, number) for number in re.findall(r"\d+", sentence[1])} if sentence else set()


def list_tests() -> set[str]:
    """Every test of the suite, by its file and name."""
    return {
        f"{file.relative_to(ROOT).as_posix()}::{found.name}"
        for file in (ROOT / "tests").rglob("test_*.py")
        for found in ast.parse(file.read_text()).body
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) and found.name.startswith("test_")
    }


def named(row: Row) -> list[str]:
    return re.findall(r"`(tests/[^`]+)`", row.others)


ROWS = rows_of("semantics.md") + rows_of("lessons.md", section=LESSONS)
LINES = rows_of("coverage.md")


@pytest.mark.parametrize(("what", "rows"), [("row", ROWS), ("line", LINES)])
def test_each_row_and_each_line_is_there_once(what: str, rows: list[Row]) -> None:
    assert len(rows) > 100, f"the tables of {what}s were not found"
    assert [key for key, times in Counter(row.key for row in rows).items() if times > 1] == []


def test_every_row_has_a_line_and_every_line_a_row() -> None:
    rows, lines = {row.key for row in ROWS}, {line.key for line in LINES}
    assert sorted(rows - lines) == [], "rows without a line in docs/coverage.md"
    assert sorted(lines - rows) == [], "lines of docs/coverage.md whose row is no more"


def test_every_test_that_a_line_names_is_there() -> None:
    there_are = list_tests()
    assert len(there_are) > 1000
    assert sorted({test for line in LINES for test in named(line)} - there_are) == []
    repeated = [line.key for line in LINES if len(named(line)) != len({*named(line)})]
    assert repeated == []


def test_a_line_names_a_test_or_says_that_its_row_is_not_built() -> None:
    assert [line.key for line in LINES if not named(line) and NOT_BUILT not in line.others] == []


def test_what_is_not_built_is_the_same_everywhere() -> None:
    marked = {row.key for row in ROWS if f"({NOT_BUILT})" in row.others}
    assert {line.key for line in LINES if NOT_BUILT in line.others} == marked | lessons_not_built()

"""docs/traceability.md agrees with the markers of the tests, and every row of the semantics and lessons has a test."""

from collections import Counter
from functools import cache

import pytest

from tests.traceability import (
    WRITTEN,
    Mark,
    Row,
    group_by_row,
    parse_marks,
    parse_rows,
    read_marks,
    read_rows,
    render,
)

ROWS = read_rows()

TABLE = """\
## Numbers
| id | case | input -> output |
|---|---|---|
| `numbers.one` | a case | 1 -> 2 \\| 3 |
| `numbers.two` | | 2 -> 3 (not built: needs threes) |
"""
MARKED = """\
import pytest

@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.holds("numbers.one", "numbers.two")
def test_one(n): ...
"""


@cache
def marks() -> list[Mark]:
    """The markers of every test: they take a second to read, which no other test process spends."""
    return read_marks()


def test_each_row_is_there_once() -> None:
    assert len(ROWS) > 100, "the tables were not found"
    assert [row for row, times in Counter(row.id for row in ROWS).items() if times > 1] == []


def test_each_row_has_a_test_or_is_marked_as_not_built() -> None:
    held = group_by_row(marks())
    assert [row.id for row in ROWS if row.id not in held and not row.not_built] == []


def test_each_marker_names_a_row_once() -> None:
    assert len(marks()) > 100, "the markers were not found"
    rows = {row.id for row in ROWS}
    assert [mark for mark in marks() if mark.row not in rows] == []
    assert [mark for mark, times in Counter(marks()).items() if times > 1] == []


def test_the_document_agrees_with_the_markers() -> None:
    assert WRITTEN.read_text() == render(ROWS, group_by_row(marks())), "docs/traceability.md is old: make traceability"


def test_a_row_begins_with_its_id() -> None:
    assert list(parse_rows(TABLE)) == [
        Row(section="Numbers", id="numbers.one", subject="a case", not_built=""),
        Row(
            section="Numbers",
            id="numbers.two",
            subject="2 -> 3 (not built: needs threes)",
            not_built="(not built: needs threes)",
        ),
    ]
    with pytest.raises(ValueError, match=r"Numbers: a row must begin with its id.* \(got 'a case'\)"):
        list(parse_rows(TABLE.replace("`numbers.one` | ", "")))


def test_a_marker_is_read_without_running_its_test() -> None:
    assert list(parse_marks(MARKED, file="tests/test_a.py")) == [
        Mark(test="tests/test_a.py::test_one", row="numbers.one"),
        Mark(test="tests/test_a.py::test_one", row="numbers.two"),
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (MARKED.replace("def test_one", "def helper"), "must mark a test function"),
        (MARKED.replace('"numbers.one"', "ONE"), "must name its rows as literal text"),
        ('import pytest\npytestmark = pytest.mark.holds("numbers.one")\n', "must mark a test function"),
    ],
)
def test_a_marker_that_would_be_missed_is_an_error(source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"tests/test_a.py:.*{reason}"):
        list(parse_marks(source, file="tests/test_a.py"))


def test_a_row_lists_its_tests_and_its_words_on_what_is_not_built() -> None:
    rows = list(parse_rows(TABLE))
    assert render(rows, {"numbers.two": ["tests/test_a.py::test_one"]}).endswith(
        "\n## Numbers\n| id | row | held by |\n|---|---|---|\n"
        "| `numbers.one` | a case |  |\n"
        "| `numbers.two` | 2 -> 3 (not built: needs threes) "
        "| `tests/test_a.py::test_one`<br>(not built: needs threes) |\n"
    )

"""Rows of a file are what the csv module reads; those that go to the database as they are, a task would take."""

import csv
import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import DAY, START, session_row
from usage_tasks.bulk.reading import RowsOfFile
from usage_tasks.storage.staging import COLUMNS
from usage_tasks.tasks.arguments import parse_reports

PLAIN = session_row(source="eu", workspace_class="large")
TEXTS = st.text(st.sampled_from("a-,\"'\\ \r\n\t\u00e4\u0660"), max_size=4)
ODD_MOMENTS = (
    "2024-02-29T00:00:00Z",
    "2023-02-29T00:00:00Z",
    "2026-01-31T24:00:00Z",
    "2026-06-31T10:00:00.5Z",
    "2026-01-01T01:00:00+01:00",
    "9999-01-01T00:00:00Z",
    "\u0662026-01-01T00:00:00Z",
    "2026-01-01T00:00:60Z",
    "2026-01-01t00:00:00z",
)


def values(row: object) -> Sequence[str]:
    return row.split(",") if isinstance(row, str) else row  # type: ignore[return-value]  # as Row says


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_rows_and_their_lines_are_those_of_the_csv_module(fields: list[list[str]], end: str) -> None:
    names = list(PLAIN)
    plain = [str(PLAIN[name]) for name in names]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=end)
    writer.writerow(names)
    for extra in fields:
        writer.writerow(plain)
        writer.writerow([*plain[:1], *extra, *plain[1 + len(extra) :]])
    reader = csv.reader(io.StringIO(file.getvalue(), newline=""), strict=True)
    next(reader)
    expected = [(reader.line_num, row) for row in reader if row]
    assert [(line, values(row)) for line, row in RowsOfFile(io.StringIO(file.getvalue(), newline=""))] == expected


@pytest.mark.parametrize("name", list(COLUMNS))
@given(odd=TEXTS | st.sampled_from(ODD_MOMENTS))
def test_what_is_called_plain_is_what_a_task_would_take(name: str, odd: str) -> None:
    row = PLAIN | {name: odd}
    file = io.StringIO()
    csv.writer(file).writerows([row.keys(), row.values()])
    ((_, read),) = RowsOfFile(io.StringIO(file.getvalue(), newline=""))
    if isinstance(read, str):
        given_values = {key: value for key, value in zip(row, read.split(","), strict=True) if value}
        _, refused = parse_reports([given_values], at=START + DAY)
        assert not refused


def test_a_file_with_every_field_in_quotes_is_plain_too() -> None:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([PLAIN.keys(), PLAIN.values()])
    assert [row for _, row in RowsOfFile(io.StringIO(file.getvalue(), newline=""))] == [",".join(PLAIN.values())]

"""Rows of a file are the rows that the csv module reads, and a task would accept each row that skips the parser."""

import csv
import io
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import DAY, START, session_row
from usage_tasks.bulk.reading import Part, RowsOfFile
from usage_tasks.storage.sessions.bulk_copy import COLUMNS
from usage_tasks.wire.session_reports import parse_reports

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


def read(text: str, count: int = 100) -> Part:
    """Every row of a file, read so many lines at a time."""
    parts = list(RowsOfFile(io.StringIO(text, newline="")).read(count))
    plain, odd = ({line: row for part in parts for line, row in part[kind].items()} for kind in (0, 1))
    assert len(plain) + len(odd) == sum(len(part.plain) + len(part.odd) for part in parts)
    return Part(plain, odd)


@given(
    st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=4), st.sampled_from(["\n", "\r\n"]), st.integers(1, 9)
)
def test_rows_and_their_lines_are_those_of_the_csv_module(fields: list[list[str]], end: str, count: int) -> None:
    names = list(PLAIN)
    plain = [str(PLAIN[name]) for name in names]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=end)
    writer.writerow(names)
    for extra in fields:
        writer.writerow(plain)
        writer.writerow([*plain[:1], *extra, *plain[1 + len(extra) :]])
    reader = csv.reader(io.StringIO(file.getvalue(), newline=""), strict=True, skipinitialspace=True)
    next(reader)
    # Separators behind the last column are no values.
    expected = [(reader.line_num, row if any(row[len(names) :]) else row[: len(names)]) for row in reader if any(row)]
    rows = read(file.getvalue(), count)
    assert [(line, list(row)) for line, row in sorted({**rows.plain, **rows.odd}.items())] == expected


@pytest.mark.parametrize("name", list(COLUMNS))
@given(odd=TEXTS | st.sampled_from(ODD_MOMENTS))
def test_what_is_called_plain_is_what_a_task_would_take(name: str, odd: str) -> None:
    row = PLAIN | {name: odd}
    file = io.StringIO()
    csv.writer(file).writerows([row.keys(), row.values()])
    for values in read(file.getvalue()).plain.values():
        given_values = {key: value for key, value in zip(row, values, strict=True) if value}
        _, refused = parse_reports([given_values], at=START + DAY, namespace=uuid4)
        assert not refused


def test_a_file_with_every_field_in_quotes_is_plain_too() -> None:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([PLAIN.keys(), PLAIN.values()])
    assert read(file.getvalue()) == ({2: list(PLAIN.values())}, {})


def test_a_comma_in_quotes_does_not_make_up_for_a_missing_field() -> None:
    names = [*PLAIN, "stopping_at"]
    text = ",".join(names) + "\n" + ",".join(PLAIN.values()).replace("eu", '"eu,"') + "\n"
    assert read(text) == ({}, {2: [*list(PLAIN.values())[:-1], "eu,"]})


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_plain_lines_are_plain_whatever_stands_beside_them(end: str) -> None:
    plain, odd = ",".join(PLAIN.values()), ",".join([*list(PLAIN.values())[:-1], '"a\nb"'])
    text = "\n".join([",".join(PLAIN), plain, plain, odd, plain]) + end
    rows = read(text, 2)
    assert (sorted(rows.plain), sorted(rows.odd)) == ([2, 3, 6], [5])

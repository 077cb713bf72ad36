"""The lines that are written for a spreadsheet, as it would read them."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_tasks.commands.spreadsheet import write_rows

CELLS = st.one_of(st.none(), st.integers(), st.text(st.sampled_from("=+-@\t\r\n\uff1d ;,|\"'a1."), max_size=6))


def written(*row: object) -> str:
    file = io.StringIO()
    write_rows(file, [row])
    return file.getvalue()


@given(st.lists(CELLS, min_size=2, max_size=4))
def test_a_cell_is_what_it_was_behind_the_apostrophe(row: list[object]) -> None:
    (read,) = csv.reader(io.StringIO(written(*row), newline=""))
    for cell, value in zip(read, row, strict=True):
        assert cell.removeprefix("'") == ("" if value is None else str(value)).removeprefix("'")
        if isinstance(value, int):
            assert cell == str(value)


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1+1",
        '=HYPERLINK("http://x","y")',
        "-cmd",
        "--1",
        "-",
        "\uff1d1",
    ],
)
def test_a_formula_is_shown_as_text(text: str) -> None:
    (cells,) = csv.reader(io.StringIO(written("a", text), newline=""))
    assert cells == ["a", f"'{text}"]


@pytest.mark.parametrize("value", [-5, 0, 12, "-5", "+5", "-0.25", "a=1", "2026-01-01", "team:x", "", "'quoted'"])
def test_numbers_and_harmless_texts_stay_as_they_are(value: object) -> None:
    assert written(value) == f"{value}\n"


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_cell_is_one_cell_where_the_separator_is_another(separator: str) -> None:
    (cells,) = csv.reader([written(f"a{separator}=1+1")], delimiter=separator)
    assert cells == [f"a{separator}=1+1"]

"""Files as spreadsheets and other systems write them end in the rows of the plain file, or are refused by name."""

import csv
import gzip
import io
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.bulk.test_loading import AT, held, record
from tests.factories import SYSTEM, session_row
from tests.warm import start
from usage_tasks import bulk
from usage_tasks.bulk import ColumnRules
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime

ROWS: Final = [
    session_row(instance_id="11111111-2222-4333-8444-555555555501", workspace_id="a;b,c d", source="eu"),
    session_row(instance_id="11111111-2222-4333-8444-555555555502", workspace_id='say "x"', source=""),
    session_row(instance_id="11111111-2222-4333-8444-555555555503", workspace_id="\u00e4 b", source="us"),
]
NAMES: Final = tuple(ROWS[0])
MY_NAMES: Final = {f"my {name}": name for name in NAMES}


def table(
    separator: str = ",", *, names: tuple[str, ...] = NAMES, more: tuple[str, ...] = (), end: str = "\r\n"
) -> str:
    """The rows as a CSV file, with `more` columns behind the others."""
    written = io.StringIO()
    writer = csv.writer(written, delimiter=separator, lineterminator=end)
    writer.writerow([*names, *more])
    writer.writerows([*map(str, row.values()), *("=1;2" for _ in more)] for row in ROWS)
    return written.getvalue()


def spaced(text: str) -> str:
    """The same with a space in front of each value, outside of its quotes, and one behind each name."""
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    quoted = [
        ['"' + value.replace('"', '""') + '"' if "," in value or '"' in value else value for value in row]
        for row in rows
    ]
    return "".join(" " + ", ".join(row) + "\n" for row in ([f"{name} " for name in head], *quoted))


FILES: Final[dict[str, bytes]] = {
    "a BOM": table().encode("utf-8-sig"),
    "a BOM, gzipped": gzip.compress(table().encode("utf-8-sig")),
    "a BOM and quotes": f'\ufeff"{table().replace(",", chr(34) + ",", 1)}'.encode(),
    "semicolons": table(";").encode(),
    "semicolons, a BOM, and a line that announces them": f"\ufeffsep=;\r\n{table(';')}".encode(),
    "tabs": table("\t").encode(),
    "UTF-16 with tabs": table("\t").encode("utf-16"),
    "UTF-16, big end first": f"\ufeff{table(';')}".encode("utf-16-be"),
    "spaces": spaced(table()).encode(),
    "separators at the end of each line": table(";").replace("\r\n", ";;\r\n").encode(),
    "separators behind the rows": table().replace("\r\n", ",\r\n").replace(",\r\n", "\r\n", 1).encode(),
    "lines without a value": f"{table()},,,,,,\r\n\r\n \r\n".encode(),
    "carriage returns alone": table(end="\r").encode(),
}


def write(directory: Path, content: bytes) -> Path:
    path = directory / ("file.csv.gz" if content.startswith(b"\x1f\x8b") else "file.csv")
    path.write_bytes(content)
    return path


def expect_the_rows(rt: Runtime, path: Path, rules: ColumnRules) -> None:
    """Expect that the file adds nothing to what the task made of the same rows."""
    record(ROWS)
    expected = held(rt)
    done = list(bulk.import_file(rt, path, at=AT, actor=SYSTEM, rules=rules))
    assert [each.rejections for each in done if each.rejections] == []
    assert sum(each.merged.unchanged for each in done) == len(ROWS)
    assert held(rt) == expected


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_a_spreadsheet_ends_in_the_rows_of_the_task(rt: Runtime, tmp_path: Path, kind: str) -> None:
    expect_the_rows(rt, write(tmp_path, FILES[kind]), ColumnRules())


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_other_columns_are_left_out_where_that_is_asked_for(rt: Runtime, tmp_path: Path, separator: str) -> None:
    content = table(separator, more=("note", "", "price", "note")).encode("utf-8-sig")
    expect_the_rows(rt, write(tmp_path, content), ColumnRules(ignore_extra=True))


def test_columns_of_other_names_are_taken_by_their_map(rt: Runtime, tmp_path: Path) -> None:
    content = spaced(table(names=tuple(MY_NAMES), more=("x",))).encode()
    renamed = [f"{mine}={name}" for mine, name in MY_NAMES.items()]
    expect_the_rows(rt, write(tmp_path, content), ColumnRules.parse(renamed, ignore_extra=True))


def test_a_row_as_long_as_the_fields_but_not_as_the_header_is_refused(rt: Runtime, tmp_path: Path) -> None:
    content = table(more=("note",)).replace(",=1;2", "", 1).encode()
    done = list(
        bulk.import_file(rt, write(tmp_path, content), at=AT, actor=SYSTEM, rules=ColumnRules(ignore_extra=True))
    )
    assert [(each.index, each.field) for part in done for each in part.rejections] == [(2, "report")]


def test_a_value_in_a_column_without_a_name_is_refused_rather_than_lost(rt: Runtime, tmp_path: Path) -> None:
    content = table(more=("",)).replace("=1;2", "", 2).encode()
    done = list(bulk.import_file(rt, write(tmp_path, content), at=AT, actor=SYSTEM))
    assert [each.index for part in done for each in part.rejections] == [4]


@pytest.mark.parametrize(
    ("renamed", "header", "words"),
    [
        (["a"], table(), r"`--map`: must be COLUMN=FIELD with .* \(got 'a'\)"),
        (["=source"], table(), r"`--map`: must be .* \(got '=source'\)"),
        (
            ["a=colour"],
            table(),
            r"`--map`: must be COLUMN=FIELD with one of the fields instance_id.* \(got 'a=colour'\)",
        ),
        (["a=source", "a=user_id"], table(), r"`--map`: must be a mapping with each column once \(got 'a=user_id'\)"),
        (["sauce=source"], table(), r"`--map`: must be a mapping of one of the columns instance_id.* \(got 'sauce'\)"),
        (["x=source"], table(more=("x",)), "each column once"),
        (
            [],
            table(more=("x",)),
            r"`header`: must be a header line with only .*, else use --ignore-extra or --map \(got 'x'\)",
        ),
    ],
)
def test_a_map_that_does_not_fit_is_refused_by_name(
    rt: Runtime, tmp_path: Path, renamed: list[str], header: str, words: str
) -> None:
    path = write(tmp_path, header.encode())
    with pytest.raises(InvalidInputError, match=words):
        list(bulk.import_file(rt, path, at=AT, actor=SYSTEM, rules=ColumnRules.parse(renamed, ignore_extra=False)))


def test_the_command_line_has_the_options(environment: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path, table(";", names=("id", *NAMES[1:]), more=("note",)).encode("utf-8-sig"))
    environment["USAGE_TEST_CLOCK"] = "false"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "usage_tasks", "import", str(path), *options]
        return start.run(command, env=environment)

    done = run("--dry-run", "--map", "id=instance_id", "--ignore-extra")
    assert (done.returncode, '"inserted": 3' in done.stdout) == (0, True), done.stderr
    for options in ((), ("--map", "id"), ("--map", "id=instance_id")):
        refused = run(*options)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr


@pytest.mark.holds("usage.empty-time")
def test_an_empty_field_is_a_time_that_is_left_out(rt: Runtime, tmp_path: Path) -> None:
    content = table(more=("stopped_at", "created_at")).replace("=1;2", "").encode()
    expect_the_rows(rt, write(tmp_path, content), ColumnRules())

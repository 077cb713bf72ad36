"""`usage-tasks report`: usage over a range as a table, as CSV or as JSON lines."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from usage_tasks.commands import OPERATOR
from usage_tasks.commands.spreadsheet import write_rows
from usage_tasks.commands.tables import show_table
from usage_tasks.commands.values import utc
from usage_tasks.domain.credits import cents_to_credits
from usage_tasks.runtime import runtime
from usage_tasks.storage.directory.names import is_any_named
from usage_tasks.storage.ledger.usage_report import Group
from usage_tasks.tasks.usage import report as report_tasks

_PAGE: Final = 10_000
_FIGURES: Final = ("credit_cents", "seconds", "sessions")


class Format(StrEnum):
    """How a report is written: for people, for a sheet, or a line of JSON a row."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def report(
    start: Annotated[datetime, typer.Option("--from", help="ISO 8601, UTC; part of the range")],
    end: Annotated[datetime, typer.Option("--to", help="ISO 8601, UTC; not part of the range")],
    account: Annotated[str | None, typer.Option(help="team:<id> or user:<id>; default: every account")] = None,
    by: Annotated[list[Group] | None, typer.Option(help="repeat for combinations; default: day")] = None,
    at: Annotated[datetime | None, typer.Option(help="as of when; ISO 8601, UTC; default: now")] = None,
    form: Annotated[Format, typer.Option("--format", help="how to write it")] = Format.TABLE,
) -> None:
    """Sum usage in a range, sessions split exactly at its edges and at midnights, running ones included."""
    group_by = by or [Group.DAY]
    pages = _pages(
        actor=OPERATOR,
        attribution_id=account,
        start=utc(start).isoformat(),
        end=utc(end).isoformat(),
        group_by=[*map(str, group_by)],
        at=None if at is None else utc(at).isoformat(),
    )
    write = {Format.TABLE: _write_table, Format.CSV: _write_csv, Format.JSON: _write_json}[form]
    write(pages, [*map(str, group_by)], _list_names(group_by))


def _list_names(group_by: Sequence[Group]) -> Sequence[str]:
    """Return the columns of names beside the ids in a report: none if nobody has such a name."""
    words = {Group.ATTRIBUTION_ID: ("account", ("team", "user")), Group.USER_ID: ("user", ("user",))}
    asked = [words[group] for group in group_by if group in words]
    with runtime().transaction() as connection:
        known = [word for word, kinds in asked if is_any_named(connection, kinds)]
    return [f"{word}_{name}" for word in known for name in ("external_id", "name")]


def _pages(**asked: Any) -> Iterator[Any]:
    ask: Any = report_tasks.report_usage
    page = ask(**asked, limit=_PAGE)
    yield page
    while token := page["next_page_token"]:
        page = ask(**asked | {"at": None}, limit=_PAGE, page_token=token)
        yield page


def _write_table(pages: Iterator[Any], keys: Sequence[str], names: Sequence[str]) -> None:
    columns = [*keys, *names]
    rows: list[tuple[str, ...]] = []
    totals: Mapping[str, int] = {}
    for page in pages:
        totals = page["totals"]
        rows += [(*(str(row.get(each, "")) for each in columns), *_figures(row)) for row in page["rows"]]
    total = ("all", *[""] * (len(columns) - 1), *_figures(totals))
    show_table((*columns, "credits", "hours", "sessions"), rows, total=total)


def _figures(row: Mapping[str, int]) -> tuple[str, str, str]:
    hours, rest = divmod(row["seconds"], 3600)
    return str(cents_to_credits(row["credit_cents"])), f"{hours}:{rest // 60:02}:{rest % 60:02}", str(row["sessions"])


def _write_csv(pages: Iterator[Any], keys: Sequence[str], names: Sequence[str]) -> None:
    columns = [*keys, *_FIGURES, *names]
    write_rows(sys.stdout, [columns])
    for page in pages:
        write_rows(sys.stdout, ([row.get(name, "") for name in columns] for row in page["rows"]))


def _write_json(pages: Iterator[Any], keys: Sequence[str], names: Sequence[str]) -> None:  # noqa: ARG001 - as the others
    for page in pages:
        for row in page["rows"]:
            sys.stdout.write(json.dumps(row) + "\n")

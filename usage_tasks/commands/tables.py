"""Tables of the commands: for a person on a terminal, and as lines for every other reader."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    total: Sequence[str] | None = None,
    headed: bool = True,
) -> None:
    """Print rows of texts, and below them a row of totals. No value is shortened.

    On a terminal a value that is too long continues on the next line. Otherwise each row is one line, whose values are
    separated by tabs, below a line with the names of the columns.
    """
    if sys.stdout.isatty():
        _print_table(columns, rows, total=total, headed=headed)
        return
    lines = [columns] if headed else []
    for row in [*lines, *rows, *([] if total is None else [total])]:
        sys.stdout.write("\t".join(map(_printable, row)) + "\n")


def _print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, total: Sequence[str] | None, headed: bool
) -> None:
    table = Table(*(Column(name, overflow="fold") for name in columns), show_header=headed)
    for row in rows:
        table.add_row(*map(_cell, row))
    if total is not None:
        table.add_section()
        table.add_row(*map(_cell, total))
    Console().print(table)


def _cell(value: str) -> Text:
    """Return a value as it is: rich would take [brackets] in a text as its own marks."""
    return Text(_printable(value))


def _printable(value: str) -> str:
    """Return a value without control characters: a tab or an end of line in it would be read as one of the table."""
    return "".join(each if each.isprintable() else " " for each in value)

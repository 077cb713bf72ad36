"""The first lines of a CSV file: the encoding, the separator, and which column is which field."""

import codecs
import csv
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self, TextIO

from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.storage.sessions.bulk_copy import COLUMNS

REQUIRED: Final = COLUMNS[:6]
REQUIRED_OF_CHANGES: Final = ("instance_id", "from", "workspace_class")
OF_CHANGES: Final = ("from", "state")
"""Columns of a file that has changes of sessions; `state` is one only beside `from`."""
SEPARATORS: Final = (",", ";", "\t")
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATOR_LINE: Final = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
"""A first line that spreadsheets write and read; it is no header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRules:
    """How columns are named otherwise than a report's fields: renamed, and whether others may be there."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    ignore_extra: bool = False

    @classmethod
    def parse(cls, renamed: Sequence[str], *, ignore_extra: bool) -> Self:
        """Read `COLUMN=FIELD` texts. Raises InvalidInputError for an unknown field, or a column named twice."""
        found: dict[str, str] = {}
        for each in renamed:
            old, _, new = each.rpartition("=")
            if not old.strip() or new.strip() not in (*COLUMNS, *OF_CHANGES):
                allowed = f"COLUMN=FIELD with one of the fields {', '.join((*COLUMNS, *OF_CHANGES))}"
                raise InvalidInputError("--map", each, allowed)
            if old.strip() in found:
                raise InvalidInputError("--map", each, "a mapping with each column once")
            found[old.strip()] = new.strip()
        return cls(renamed=found, ignore_extra=ignore_extra)


AS_NAMED: Final = ColumnRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The parsed header line: the separator, and each column's field, None for an ignored column.

    A column without a name, which a separator at the end of the lines makes, is "": it must stay empty.
    """

    separator: str
    fields: Sequence[str | None]
    last_line: int


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a file, `.gz` or not, in UTF-8 or, if it begins so, in UTF-16; no line holds the mark of the encoding."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        encoding = "utf-16" if file.read(2) in _UTF_16 else "utf-8-sig"
    # Bytes that are no UTF-8 become what no name may hold: such a row is quarantined, not the file refused.
    errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
    with opener(path, "rt", encoding=encoding, errors=errors, newline="") as lines:
        yield lines


def read_header(lines: TextIO, rules: ColumnRules) -> Header:
    """Read up to the end of the header. Raises InvalidInputError for a header that won't do, by name."""
    first, skipped = lines.readline(), 0
    separator = None
    if announced := _SEPARATOR_LINE.fullmatch(first):
        separator, first, skipped = announced[1], lines.readline(), 1
    if separator is None:
        separator = max(SEPARATORS, key=lambda each: _count_known(first, each, rules))
    reader = new_reader(chain((first,), lines), separator)
    names = [name.strip() for name in next(reader, [])]
    return Header(separator=separator, fields=_to_fields(names, rules), last_line=skipped + reader.line_num)


def new_reader(lines: Iterator[str], separator: str) -> Any:
    """Return a reader of rows: a space behind a separator is no part of a value, unless the value is in quotes."""
    return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)


def _count_known(line: str, separator: str, rules: ColumnRules) -> int:
    names = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    return sum(name.strip() in COLUMNS or name.strip() in rules.renamed for name in names)


def _to_fields(names: Sequence[str], rules: ColumnRules) -> Sequence[str | None]:
    if absent := [name for name in rules.renamed if name not in names]:
        raise InvalidInputError("--map", absent[0], f"a mapping of one of the columns {', '.join(names)[:200]}")
    named = [rules.renamed.get(name, name) for name in names]
    has_changes = "from" in named
    known = (*COLUMNS, *OF_CHANGES) if has_changes else COLUMNS
    if missing := [name for name in (REQUIRED_OF_CHANGES if has_changes else REQUIRED) if name not in named]:
        raise InvalidInputError("header", ",".join(names), f"a header line with {', '.join(missing)}")
    extra = [name for name in named if name and name not in known]
    if extra and not rules.ignore_extra:
        allowed = f"a header line with only {', '.join((*COLUMNS, *OF_CHANGES))}, else use --ignore-extra or --map"
        raise InvalidInputError("header", extra[0], allowed)
    fields = [None if name in extra or (not name and rules.ignore_extra) else name for name in named]
    kept = [name for name in fields if name]
    if len(set(kept)) != len(kept):
        raise InvalidInputError("header", ",".join(names), "a header line with each column once")
    return fields

"""A file of reports, row by row, and which rows are plain: PostgreSQL reads their values as a task would.

Most lines of most files are plain: one regular expression sees that, and nothing looks into a value again in Python.
"""

import csv
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.storage.sessions.bulk_copy import COLUMNS
from usage_tasks.wire.values import NAME_LENGTH_MAX

REQUIRED: Final = COLUMNS[:6]

Rows = Mapping[int, Sequence[str]]
"""The values of rows, each by the number of its last line."""


class Part(NamedTuple):
    """Some rows of a file: those that are plain, and the others."""

    plain: Rows
    odd: Rows


_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# Printable ASCII but for what CSV gives a meaning.
_NAME = r"[ !#-+\--~]"
_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
# The one spelling that Python and PostgreSQL read alike without a doubt; 29 February is looked at more closely.
_INSTANT = (
    f"(?:19[7-9][0-9]|2[0-9]{{3}})-{_DAY}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:Z|\+00:00|\.[0-9]{1,6}(?:Z|\+00:00))"  # a choice by its first sign: quicker than what may be left out
)
_PLAIN: Final = {
    "instance_id": _UUID,
    "workspace_id": f"{_NAME}{{1,{NAME_LENGTH_MAX}}}",
    "user_id": _UUID,
    "attribution_id": f"(?:team|user):{_UUID}",
    "workspace_class": f"{_NAME}{{1,{NAME_LENGTH_MAX}}}",
    "started_at": _INSTANT,
    "source": f"{_NAME}{{0,{NAME_LENGTH_MAX}}}",
}
_PLAIN_OPTIONAL: Final = f"(?:{_INSTANT}|)"


class RowsOfFile:
    """The rows below a file's header; blank lines are no rows."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        reader = csv.reader(lines, strict=True)
        self.header = _checked_header(next(reader, []))
        self._line = reader.line_num
        patterns = [_PLAIN.get(name, _PLAIN_OPTIONAL) for name in self.header]
        self._plain = re.compile(",".join(patterns)).fullmatch
        self._all_plain = re.compile(",".join(f"({each})" for each in patterns).join(("^", "\r?$")), re.M).findall

    def read(self, count: int) -> Iterator[Part]:
        """Read so many lines at a time, and what a quoted value takes beyond."""
        while lines := list(islice(self._lines, count)):
            rows = self._all_plain("".join(lines))
            if len(rows) == len(lines):
                yield Part(dict(enumerate(rows, self._line + 1)), {})
                self._line += len(lines)
            else:
                yield self._sort(lines)

    def _sort(self, lines: Sequence[str]) -> Part:
        plain: dict[int, Sequence[str]] = {}
        odd: dict[int, Sequence[str]] = {}
        rest = iter(lines)
        for text in rest:
            # Quotes may go on over lines: the reader takes as many as it needs.
            reader = csv.reader(chain((text,), rest, self._lines), strict=True)
            values = next(reader)
            self._line += reader.line_num
            if len(values) == len(self.header) and self._plain(",".join(values)):
                plain[self._line] = values
            elif values:
                odd[self._line] = values
        return Part(plain, odd)


@contextmanager
def opened(path: Path) -> Iterator[RowsOfFile]:
    """Open a CSV file, `.gz` or not. Raises InvalidInputError for a header that won't do."""
    # Bytes that are no UTF-8 become what no name may hold: such a row is quarantined, not the file refused.
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as lines:
            yield RowsOfFile(lines)
    else:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            yield RowsOfFile(lines)


def _checked_header(header: Sequence[str]) -> Sequence[str]:
    known = ", ".join(COLUMNS)
    if missing := [name for name in REQUIRED if name not in header]:
        raise InvalidInputError("header", ",".join(header)[:200], f"a header line with {', '.join(missing)}")
    if unknown := [name for name in header if name not in COLUMNS]:
        raise InvalidInputError("header", unknown[0][:200], f"only {known}")
    if len(set(header)) != len(header):
        raise InvalidInputError("header", ",".join(header)[:200], "each column once")
    return header

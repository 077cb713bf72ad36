"""A file of reports, row by row, and which rows are plain: PostgreSQL reads their values as a task would.

Most lines of most files are plain: one regular expression sees that, and nothing looks into a value again in Python.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from usage_tasks.bulk.header import AS_NAMED, ColumnRules, new_reader, open_text, read_header
from usage_tasks.wire.values import NAME_LENGTH_MAX

Rows = Mapping[int, Sequence[str]]
"""The values of rows, each by the number of its last line."""


class Misfit(list[str]):
    """The values of a row that has more or fewer of them than the header has columns."""


class Part(NamedTuple):
    """Some rows of a file: the plain rows, and the others."""

    plain: Rows
    odd: Rows


_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# Printable ASCII but for what CSV gives a meaning; a space in front is none of the value.
_NAME = r"[ !#-+\--:<-~]"
_BEGIN = r"(?! )"
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
    "workspace_id": f"{_BEGIN}{_NAME}{{1,{NAME_LENGTH_MAX}}}",
    "user_id": _UUID,
    "attribution_id": f"(?:team|user):{_UUID}",
    "workspace_class": f"{_BEGIN}{_NAME}{{1,{NAME_LENGTH_MAX}}}",
    "started_at": _INSTANT,
    "source": f"{_BEGIN}{_NAME}{{0,{NAME_LENGTH_MAX}}}",
    "from": "",
    "state": "",
    "": "",
}
_PLAIN_OPTIONAL: Final = f"(?:{_INSTANT}|)"


class RowsOfFile:
    """The rows below a file's header, with the values of the columns that are fields of reports.

    Lines without a value are no rows.
    """

    def __init__(self, lines: TextIO, rules: ColumnRules = AS_NAMED) -> None:
        self._lines = lines
        header = read_header(lines, rules)
        self._separator, self._line, self._width = header.separator, header.last_line, len(header.fields)
        self._kept = [place for place, name in enumerate(header.fields) if name is not None]
        self.header = [name for name in header.fields if name is not None]
        patterns = [_PLAIN.get(name, _PLAIN_OPTIONAL) for name in self.header]
        self._plain = re.compile(",".join(patterns)).fullmatch
        escaped = re.escape(header.separator)
        ignored = f'[^{escaped}"\r\n]*'
        of_line = [ignored if name is None else f"({_PLAIN.get(name, _PLAIN_OPTIONAL)})" for name in header.fields]
        line = re.compile(escaped.join(of_line).join(("^", "\r?$")), re.M)
        self._all_plain, self._one_plain = line.findall, line.match

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
            if found := self._one_plain(text):
                self._line += 1
                plain[self._line] = found.groups()
                continue
            # Quotes may go on over lines: the reader takes as many as it needs.
            reader = new_reader(chain((text,), rest, self._lines), self._separator)
            values = next(reader)
            self._line += reader.line_num
            if not any(values):
                continue
            row = self._keep(values)
            if not isinstance(row, Misfit) and self._plain(",".join(row)):
                plain[self._line] = row
            else:
                odd[self._line] = row
        return Part(plain, odd)

    def _keep(self, values: list[str]) -> list[str]:
        """Return the values that are fields of a report. Separators behind the last column are no values."""
        if any(values[self._width :]) or len(values) < self._width:
            return Misfit(values)
        return [values[place] for place in self._kept]


@contextmanager
def opened(path: Path, rules: ColumnRules) -> Iterator[RowsOfFile]:
    """Open a CSV file, `.gz` or not. Raises InvalidInputError for a header that won't do."""
    with open_text(path) as lines:
        yield RowsOfFile(lines, rules)

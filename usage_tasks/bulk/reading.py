"""A file of reports, row by row: a plain line as it stands, which PostgreSQL can copy, any other as its values.

Most lines of most files are plain: one regular expression sees that, and nothing looks into them again in Python.
"""

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final, TextIO

from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.storage.staging import COLUMNS
from usage_tasks.tasks.arguments import NAME_LENGTH_MAX

REQUIRED: Final = COLUMNS[:6]

Row = str | Sequence[str]
"""A plain line without its end, whose values are what stands between the commas; or the values of any other line."""

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
    r"(?:\.[0-9]{1,6})?(?:Z|\+00:00)"
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
_PLAIN_OPTIONAL: Final = f"(?:{_INSTANT})?"


class RowsOfFile:
    """The rows below a file's header, each with the number of its last line; blank lines are no rows."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._line = 0
        self.header = _checked_header(next(csv.reader(self._numbered(), strict=True), []))

    def _numbered(self) -> Iterator[str]:
        for line in self._lines:
            self._line += 1
            yield line

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        plain = re.compile(",".join(_PLAIN.get(name, _PLAIN_OPTIONAL) for name in self.header)).fullmatch
        lines = self._numbered()
        for line in lines:
            stripped = line.rstrip("\r\n")
            if plain(stripped):
                yield self._line, stripped
            # Quotes may go on over lines: the reader takes as many as it needs.
            elif values := next(csv.reader(chain((line,), lines), strict=True)):
                unquoted = ",".join(values)
                yield self._line, unquoted if plain(unquoted) else values


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

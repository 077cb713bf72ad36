"""CSV for people who open it in a spreadsheet, where a cell may be a program.

A text that a spreadsheet would take for a formula gets an apostrophe in front, which makes it a text. Numbers stay
numbers. A text with a separator of any country is quoted: where a comma is the decimal sign, a semicolon begins a cell.
Source: https://owasp.org/www-community/attacks/CSV_Injection
"""

import re
from collections.abc import Iterable
from typing import Final, TextIO

_FORMULA: Final = re.compile(r"\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")  # the last four: of full width
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
_TO_QUOTE: Final = re.compile(r'[",;|\t\r\n]|^\s|\s$')


def write_rows(file: TextIO, rows: Iterable[Iterable[object]]) -> None:
    """Write rows as lines of CSV that end in a line feed."""
    for row in rows:
        file.write(",".join(map(_cell, row)) + "\n")


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if isinstance(value, str) and _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if _TO_QUOTE.search(text) else text

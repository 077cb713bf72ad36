"""The table of docs/stripe-contract.md: which test exercises which operation."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parents[2] / "docs" / "stripe-contract.md"
_ROW = re.compile(r"\| `([A-Z]+ /v\d[^`]*)` \| (?:`([a-z_.]+)` )?\| `([a-z_]+\.py)::(test_\w+)` \|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An operation, the name our client calls it by (empty: it doesn't), and the test."""

    operation: str
    call: str
    module: str
    test: str


@cache
def rows() -> tuple[Row, ...]:
    found = (
        _ROW.fullmatch(line) for line in TABLE.read_text().splitlines() if line.startswith("| `") and " /v" in line
    )
    return tuple(Row(operation=one[1], call=one[2] or "", module=one[3], test=one[4]) for one in found if one)


def promised(module: str, test: str) -> set[str]:
    """The operations that a test is named for."""
    return {row.operation for row in rows() if (row.module, row.test) == (module, test)}

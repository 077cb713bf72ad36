"""Billing cycles: anchored calendar months in UTC.

The n-th edge is always the anchor plus n months, clipped to the month's last day, so that a cycle of the 31st goes
31 Jan, 28 Feb, 31 Mar instead of drifting. Source: docs/semantics.md, Cost centers and cycles.
"""

import calendar
from dataclasses import dataclass
from datetime import datetime

_MONTHS_PER_YEAR = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One billing cycle, [started_at, ends_at), the `number`-th since its anchor."""

    anchor_at: datetime
    number: int

    @property
    def started_at(self) -> datetime:
        """The first instant of the cycle."""
        return add_months(self.anchor_at, self.number)

    @property
    def ends_at(self) -> datetime:
        """The first instant of the next cycle: when billing is due."""
        return add_months(self.anchor_at, self.number + 1)

    def following(self) -> "Cycle":
        """The cycle after this one, on the same anchor."""
        return Cycle(anchor_at=self.anchor_at, number=self.number + 1)


def add_months(anchor: datetime, months: int) -> datetime:
    """Move an instant by calendar months; a day that the month lacks becomes its last one."""
    index = anchor.year * _MONTHS_PER_YEAR + anchor.month - 1 + months
    year, month = index // _MONTHS_PER_YEAR, index % _MONTHS_PER_YEAR + 1
    return anchor.replace(year=year, month=month, day=min(anchor.day, calendar.monthrange(year, month)[1]))

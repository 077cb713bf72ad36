"""Is everything that must hold true in the tables?"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.storage.verification import VerificationFinding, run_checks


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationVerdict:
    """The findings of every check at an instant."""

    at: datetime
    findings: Sequence[VerificationFinding]

    @property
    def clean(self) -> bool:
        """Nothing offends."""
        return not any(finding.offenders for finding in self.findings)

    def describe(self) -> str:
        """Describe the offenders in one line, with a sample."""
        return "; ".join(
            f"{each.check}: {each.offenders} offend, such as {', '.join(each.sample[:3])}"
            for each in self.findings
            if each.offenders
        )


GRACE: Final = timedelta(minutes=10)
"""A system at work has sessions that stopped, or were reported, since the last tick."""

_TICKS_PER_GRACE: Final = 2


def grace_of(period: timedelta | None) -> timedelta:
    """How long a stopped session may wait for its entry where the ledger ticks so often; None: it is ticked by hand."""
    return max(GRACE, _TICKS_PER_GRACE * (period or timedelta(0)))


def verify(connection: Connection, *, at: datetime, grace: timedelta = timedelta(0)) -> VerificationVerdict:
    """Run every check; sessions that had stopped by `at` must be posted, but for those of the last `grace`."""
    return VerificationVerdict(at=at, findings=run_checks(connection, at=at, grace=grace))

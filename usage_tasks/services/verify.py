"""Is everything that must hold true in the tables?"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.storage.verification import Finding, run_checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What every check found at an instant."""

    at: datetime
    findings: Sequence[Finding]

    @property
    def clean(self) -> bool:
        """Nothing offends."""
        return not any(finding.offenders for finding in self.findings)

    def describe(self) -> str:
        """Say what offends, with a sample, in one line."""
        return "; ".join(
            f"{each.check}: {each.offenders} offend, such as {', '.join(each.sample[:3])}"
            for each in self.findings
            if each.offenders
        )


def verify(connection: Connection, *, at: datetime) -> Verdict:
    """Run every check on one snapshot of the tables; `at` is up to when stopped sessions must be posted."""
    return Verdict(at=at, findings=run_checks(connection, at=at))

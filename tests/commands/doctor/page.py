"""The table of docs/doctor.md, which is what the doctor is held to."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usage_tasks.commands.operations.findings.finding import DoctorFinding, Verdict

PAGE: Final = Path(__file__).parents[3] / "docs" / "doctor.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentedFault:
    """A row of the table: the doctor's words, with `...` for what differs."""

    name: str
    verdict: str
    check: str
    found: str
    advice: str

    def is_in(self, finding: DoctorFinding) -> bool:
        """Return True if a finding is in the words of this row."""
        return (finding.verdict.value, finding.check) == (self.verdict, self.check) and all(
            _pattern(words).fullmatch(said)
            for words, said in ((self.found, finding.found), (self.advice, finding.advice))
        )


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, words.split("..."))), re.DOTALL)


def read_faults() -> dict[str, DocumentedFault]:
    """Read the table, by the names of the faults."""
    section = PAGE.read_text().partition("## Faults")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    return {
        name: DocumentedFault(name=name, verdict=verdict, check=check, found=found, advice=advice)
        for name, verdict, check, found, advice in rows[1:]
    }


FAULTS: Final = read_faults()


def to_see_to(findings: list[DoctorFinding]) -> list[DoctorFinding]:
    """Return the findings that are not fine."""
    return [each for each in findings if each.verdict is not Verdict.FINE]

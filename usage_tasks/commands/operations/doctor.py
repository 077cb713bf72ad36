"""`usage-tasks doctor`: examines a whole installation, and gives advice for each finding."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from pydantic_core import to_json

from usage_tasks.commands import WRONG
from usage_tasks.commands.operations.findings.examination import examine
from usage_tasks.commands.operations.findings.finding import DoctorFinding, Verdict, count


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="a line of JSON a finding, also of each that is fine")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="also what is fine")] = False,
) -> None:
    """Look the installation over: exit code 1 if something is wrong, with what to do about it.

    Each finding is a line, `wrong` or `look`, and a line with what to do. `look` alone is exit code 0. Without either
    there is one line. The command ends within 15 seconds, also if a server is silent.
    """
    findings = list(examine(os.environ))
    if as_json:
        sys.stdout.writelines(to_json(asdict(each)).decode() + "\n" for each in findings)
    else:
        sys.stdout.writelines(f"{line}\n" for line in describe(findings, every=every))
    raise typer.Exit(WRONG if any(each.verdict is Verdict.WRONG for each in findings) else 0)


def describe(findings: Sequence[DoctorFinding], *, every: bool = False) -> Iterator[str]:
    """Write findings as lines, what needs attention or every one, and a last line that counts. No line is cut."""
    shown = [each for each in findings if every or each.verdict is not Verdict.FINE]
    for each in shown:
        yield f"{each.verdict.value:5}  {each.check}: {_printable(each.found)}"
        if each.advice:
            yield f"       {_printable(each.advice)}"
    open_ones = [each for each in findings if each.verdict is not Verdict.FINE]
    yield f"{count(len(findings), 'check')}, {f'{len(open_ones)} to see to' if open_ones else 'nothing to do'}"


def _printable(words: str) -> str:
    """Return words of others, such as Stripe's, as one line without control characters."""
    return "".join(each if each.isprintable() else " " for each in words)

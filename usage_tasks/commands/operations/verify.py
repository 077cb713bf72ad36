"""`usage-tasks verify`: every invariant of the ledger."""

from datetime import timedelta

import typer

from usage_tasks.commands import WRONG
from usage_tasks.commands.tables import show_table
from usage_tasks.commands.values import At, utc_or_none
from usage_tasks.runtime import runtime
from usage_tasks.services.operations import verify_ledger


def verify(at: At = None) -> None:
    """Check every invariant of the ledger; exit code 1 if one is broken."""
    rt = runtime()
    with rt.transaction() as connection:
        grace = verify_ledger.grace_of(rt.settings.controller_schedule) if at is None else timedelta(0)
        verdict = verify_ledger.verify(connection, at=utc_or_none(at) or rt.now(), grace=grace)
    rows = ((finding.check, str(finding.offenders), ", ".join(finding.sample)) for finding in verdict.findings)
    show_table(("check", "offenders", "such as"), rows)
    raise typer.Exit(0 if verdict.clean else WRONG)

"""`usage-tasks import`: a file of reports of sessions."""

import csv
import gc
import json
import sys
import zlib
from pathlib import Path
from typing import Annotated, Final

import typer

from usage_tasks import bulk
from usage_tasks.commands import OPERATOR, USAGE_ERROR, WRONG
from usage_tasks.commands.failures import find_failure
from usage_tasks.domain.errors import InvalidInputError, RetryableError
from usage_tasks.runtime import runtime

_SHOWN_MAX: Final = 100
"""How many refused rows of a file are shown; all of them are in quarantine."""
_GARBAGE_AFTER: Final = 50_000
"""An import makes many rows and no cycles: the collector, which runs after each 700 objects, would find nothing."""


def import_reports(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a CSV file, or a CSV.gz, with a header")],
    rename: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=FIELD", help="a column that is named otherwise; may be repeated"),
    ] = None,
    ignore_extra: Annotated[bool, typer.Option("--ignore-extra", help="leave out columns that are no fields")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="count what would become of the rows, write nothing")
    ] = False,
) -> None:
    """Take up a file of reports of sessions, fast; safe to run again. Exit code 1 if rows were quarantined."""
    gc.set_threshold(_GARBAGE_AFTER)
    rt = runtime()
    counts = {"inserted": 0, "updated": 0, "unchanged": 0, "quarantined": 0}
    try:
        rules = bulk.ColumnRules.parse(rename or (), ignore_extra=ignore_extra)
        take_up = bulk.rehearse_file if dry_run else bulk.import_file
        for done in take_up(rt, file, at=rt.now(), actor=OPERATOR, rules=rules):
            for each in done.rejections[: max(0, _SHOWN_MAX - counts["quarantined"])]:
                sys.stderr.write(f"line {each.index}: {each.field}: {each.reason}\n")
            for what in ("inserted", "updated", "unchanged"):
                counts[what] += getattr(done.merged, what)
            counts["quarantined"] += len(done.rejections)
    except (InvalidInputError, RetryableError, csv.Error, OSError, EOFError, zlib.error) as error:
        state = "nothing is taken up by a dry run" if dry_run else f"taken up before: {json.dumps(counts)}"
        sys.stderr.write(f"{file}: {error}; {state}\n")
        failure = find_failure(error)
        raise typer.Exit(USAGE_ERROR if failure is None else failure.exit_code) from error
    sys.stdout.write(json.dumps({"dry_run": counts} if dry_run else counts) + "\n")
    raise typer.Exit(WRONG if counts["quarantined"] else 0)

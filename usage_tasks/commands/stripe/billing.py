"""`usage-tasks parked`, `drift` and `check-stripe`: what operators type when Stripe and the ledger are to agree."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from usage_tasks.commands import OPERATOR, WRONG
from usage_tasks.commands.json_lines import write_lines
from usage_tasks.commands.tables import show_table
from usage_tasks.commands.values import At, utc_or_none
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.drift import Drift
from usage_tasks.runtime import runtime
from usage_tasks.storage.directory.names import find_names
from usage_tasks.storage.payments import parked as stored
from usage_tasks.tasks import checks
from usage_tasks.tasks.billing import metering

_PAGE: Final = 1000
_SHOWN_MAX: Final = 1000

parked = typer.Typer(help="The accounts that get no reports until they are released.", no_args_is_help=True)


@parked.command("list")
def list_parked() -> None:
    """List the parked accounts with the reason, as JSON lines; exit code 1 if there is one."""
    found = False
    after: AttributionId | str = ""
    while True:
        with runtime().transaction() as connection:
            page = stored.list_parked(connection, limit=_PAGE, after=after)
            write_lines(connection, page)
        if not page:
            raise typer.Exit(WRONG if found else 0)
        found, after = True, page[-1].attribution_id


@parked.command("release")
def release_parked(
    attribution: Annotated[str, typer.Argument(help="team:<id> or user:<id>, as `parked list` shows it")],
) -> None:
    """Release a parked account: its reports are sent again, and its sync goes on; exit code 1 if it is parked again."""
    release: Any = metering.release_parked  # called as over the wire, so that one validation serves both
    released = release(attribution_id=attribution, actor=OPERATOR)
    Console().print_json(json.dumps(released))
    raise typer.Exit(0 if released["parked_anew"] is None else WRONG)


def drift(
    fix: Annotated[bool, typer.Option("--fix", help="send anew what is lost, report what is owed")] = False,
    at: At = None,
) -> None:
    """Compare ledger, sent quantities and Stripe's meter, in credits; exit code 1 if an account is astray."""
    rt = runtime()
    _ = rt.stripe_key  # without it nothing is compared, also where no account asks for it
    instant = rt.instant(utc_or_none(at))
    shown: list[Drift] = []
    accounts = astray = repaired = unsettled = 0
    after: AttributionId | str | None = ""
    while after is not None:
        done = metering.compare(rt, at=instant, fix=fix, doubted=False, actor=OPERATOR, after=after)
        shown += done.drifts[: max(0, _SHOWN_MAX - astray)]
        accounts, unsettled = accounts + done.accounts, unsettled + done.unsettled
        astray, repaired, after = astray + len(done.drifts), repaired + done.repaired, done.after
    if astray:
        _show_drifts(shown)
    sys.stdout.write(
        f"{accounts} accounts compared, {astray} astray, {repaired} repaired, {unsettled} too fresh to judge\n"
    )
    raise typer.Exit(WRONG if astray else 0)


def _show_drifts(drifts: Sequence[Drift]) -> None:
    with runtime().transaction() as connection:
        names = find_names(connection, {each.attribution_id for each in drifts})
    rows = [
        (
            each.attribution_id,
            *([" / ".join(filter(None, names.get(each.attribution_id, ())))] if names else []),
            each.kind,
            str(each.ledger),
            str(each.sent),
            "" if each.stripe is None else str(each.stripe),
            each.reason,
        )
        for each in drifts
    ]
    named = ["names"] if names else []
    show_table(("account", *named, "what", "ledger", "sent", "stripe", "reason"), rows)


def check_stripe() -> None:
    """Check the configured prices and meter against Stripe; exit code 2 names what must be otherwise."""
    rt = runtime()
    _ = rt.stripe_key  # without prices and key nothing is as the settings say
    checks.check_now(rt)
    sys.stdout.write("prices and meter are as the settings say\n")

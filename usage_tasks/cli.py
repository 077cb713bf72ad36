"""`usage-tasks`: the table of the commands. A command's module is imported when the command is run, not before.

Exit codes: 0 done, 1 something does not hold, 2 wrong settings or usage (also: a server refuses the password, another
process listens on the port), 75 try again later (a server is busy or away).
"""

import atexit
import gc
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from platform import python_version
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class CommandEntry(NamedTuple):
    """A command or a group of commands: `module:name` below usage_tasks/commands, and its line of help."""

    place: str
    help: str


# In the order of `usage-tasks --help`. A test holds the lines of help equal to the first lines of the commands' own.
COMMANDS: Final[Mapping[str, CommandEntry]] = MappingProxyType(
    {
        "report": CommandEntry(
            "ledger.report:report",
            "Sum usage in a range, sessions split exactly at its edges and at midnights, running ones included.",
        ),
        "drift": CommandEntry(
            "stripe.billing:drift",
            "Compare ledger, sent quantities and Stripe's meter, in credits; exit code 1 if an account is astray.",
        ),
        "check-stripe": CommandEntry(
            "stripe.billing:check_stripe",
            "Check the configured prices and meter against Stripe; exit code 2 names what must be otherwise.",
        ),
        "jobs": CommandEntry(
            "operations.jobs:jobs",
            "Show the periodic jobs; exit code 1 if one is overdue: a due time has waited for more than 5 minutes.",
        ),
        "exporter": CommandEntry(
            "operations.exporter:exporter",
            "Show Prometheus what waits in the broker and the tables, on /metrics; one for an installation is enough.",
        ),
        "doctor": CommandEntry(
            "operations.doctor:doctor",
            "Look the installation over: exit code 1 if something is wrong, with what to do about it.",
        ),
        "migrate": CommandEntry(
            "operations.migrate:migrate",
            "Bring the database to this version: its schema, then the price list of the configuration file.",
        ),
        "installation": CommandEntry(
            "operations.installation:installation",
            "The id that ties this database to its Redis; the Redis of another one is refused.",
        ),
        "settings": CommandEntry(
            "operations.settings:settings",
            "Check the settings and print them, without secrets, as a configuration file.",
        ),
        "schemas": CommandEntry(
            "operations.schemas:schemas",
            "Print the JSON Schema of every task's arguments, and of every message to the platform, by name.",
        ),
        "health": CommandEntry(
            "operations.health:health",
            "Probe the processes of this machine, by their heartbeats: exit code 0 healthy, 1 not, 2 wrong usage.",
        ),
        "webhook": CommandEntry(
            "operations.webhook:webhook",
            "Run the webhook receiver; `server` in the configuration file has its address and port.",
        ),
        "flower": CommandEntry(
            "operations.flower:flower",
            "Run Flower, read-only and with a password: FLOWER_BASIC_AUTH=user:password must be set.",
        ),
        "verify": CommandEntry(
            "operations.verify:verify", "Check every invariant of the ledger; exit code 1 if one is broken."
        ),
        "grants": CommandEntry(
            "ledger.grants:grants",
            "List what was granted to an account, newest first, with each burn and lapse, as JSON lines.",
        ),
        "explain": CommandEntry(
            "ledger.explain:explain", "Explain what a session costs, or what an entry of the ledger is, in words."
        ),
        "import": CommandEntry(
            "sessions.import_file:import_reports",
            "Take up a file of reports of sessions, fast; safe to run again. Exit code 1 if rows were quarantined.",
        ),
        "zombies": CommandEntry(
            "sessions.zombies:list_capped",
            "List the running sessions that accrue no further, longest first, as JSON lines.",
        ),
        "release": CommandEntry(
            "sessions.zombies:release_capped",
            "Let a zombie accrue again by its facts; it is not capped again for the same reason.",
        ),
        "demo": CommandEntry(
            "demo:demo", "Replay a real cluster's quarter through a whole installation, and compare what came out."
        ),
        "names": CommandEntry("operations.names:names", "The external ids and display names of accounts and sessions."),
        "prices": CommandEntry("ledger.prices:prices", "The price versions."),
        "poison": CommandEntry(
            "operations.poison:poison",
            "The messages that were set aside: they killed their workers, failed for good, are unknown or unreadable.",
        ),
        "quarantine": CommandEntry("sessions.quarantine:quarantine", "The reports of sessions that were refused."),
        "webhooks": CommandEntry("stripe.webhooks:webhooks", "Stripe's events, as they came and what became of them."),
        "invoices": CommandEntry("stripe.invoices:invoices", "Stripe's invoices."),
        "parked": CommandEntry("stripe.billing:parked", "The accounts that get no reports until they are released."),
    }
)


class LazyGroup(TyperGroup):
    """Lists and suggests commands from the table, and imports only the command that runs."""

    def __init__(self, **attributes: Any) -> None:
        attributes["commands"] = {name: _listed(name) for name in COMMANDS}
        super().__init__(**attributes)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command as every group does, and load it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load(name), rest


def _listed(name: str) -> TyperCommand:
    return TyperCommand(name, help=COMMANDS[name].help)


def load(name: str) -> Any:
    """Import a command or a group."""
    module, _, attribute = COMMANDS[name].place.partition(":")
    found = getattr(import_module(f"usage_tasks.commands.{module}"), attribute)
    around = typer.Typer()
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
    else:
        around.command(name)(found)
    return typer.main.get_group(around).commands[name]


cli = typer.Typer(
    cls=LazyGroup,
    help="Usage billing on Celery.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - as typer calls it
    if asked:
        typer.echo(f"usage-tasks {version('usage-tasks')}, Celery {version('celery')}, Python {python_version()}")
        raise typer.Exit


@cli.callback()
def _root(
    show_version: Annotated[  # noqa: FBT002 - as typer reads a flag
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the versions and exit")
    ] = False,
) -> None:
    """Make `cli` a group, though no command is registered yet."""


def main() -> None:
    """Run the command line; a wrong setting or value is one message and exit code 2, a busy world one and 75."""
    atexit.register(gc.freeze)  # end without a last search for garbage among all modules
    if not COMMANDS.keys().isdisjoint(sys.argv[1:2]):
        from usage_tasks.telemetry.logs import configure_logging  # noqa: PLC0415 - help logs nothing

        configure_logging(os.environ.get("USAGE_LOG_LEVEL", "WARNING"))  # to standard error: the answer stands alone
    try:
        cli()
    except Exception as error:
        from usage_tasks.commands.failures import find_failure  # noqa: PLC0415 - most commands do not fail

        failure = find_failure(error)
        if failure is None:
            raise
        sys.stderr.write(f"{failure.line}\n")
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()

"""Page of the command line."""

from collections.abc import Iterator
from typing import Any, Final

import typer

from tests.docs.reference.shapes import cell, paragraphs
from usage_tasks.cli import cli
from usage_tasks.commands import TRY_AGAIN, USAGE_ERROR, WRONG

_HEAD: Final = f"""\
# Command line

Every command of `usage-tasks`, with its arguments and options. `usage-tasks COMMAND --help` prints the same.

## Exit codes
| code | meaning |
|---|---|
| 0 | done |
| {WRONG} | something does not hold: the command's text has what |
| {USAGE_ERROR} | wrong settings or wrong usage; also: a server refuses the password, another process uses the port |
| {TRY_AGAIN} | the database or another server is busy or away: run the command again later |

These cases differ, or are not as one might expect:

| case | commands | code |
|---|---|---|
| something does not hold | `check-stripe`, `invoices reconcile` | {USAGE_ERROR} |
| an id that does not exist | `webhooks show` | {WRONG} |
| | `explain`, `release`, `poison show`, `poison replay`, `poison drop` | {USAGE_ERROR} |
| | `webhooks replay`, `webhooks drop`, `quarantine release`, `quarantine drop`: nothing is done | 0 |
| | `parked release`: nothing is done; `grants`: nothing is listed | 0 |
| a list that is not empty | `parked list` | {WRONG} |
| | `webhooks list`, `poison list`, `zombies`, `quarantine`, `prices list` | 0 |
| the database is away | `doctor`, `health`: a finding | {WRONG} |

"""


def render() -> str:
    """Return the page."""
    root: Any = typer.main.get_command(cli)
    context = typer.Context(root, info_name="usage-tasks")
    index = "## Commands\n| command | purpose |\n|---|---|\n"
    sections = ""
    for name, command in _leaves(root, context, "usage-tasks"):
        first = paragraphs(command.help).split("\n")[0]
        anchor = name.replace(" ", "-")
        index += f"| [`{name}`](#{anchor}) | {cell(first)} |\n"
        sections += f"\n## {name}\n{paragraphs(command.help)}\n\n{_parameters(command)}"
    return f"{_HEAD}{index}\n`usage-tasks --version` prints the versions. {_GLOBAL}\n{sections}"


_GLOBAL: Final = "`USAGE_LOG_LEVEL` sets how much a command logs, to standard error."


def _leaves(command: Any, context: Any, name: str) -> Iterator[tuple[str, Any]]:
    names: list[str] = command.list_commands(context) if hasattr(command, "list_commands") else []
    if name != "usage-tasks" and (not names or command.params):
        yield name, command
    for each in names:
        yield from _leaves(command.resolve_command(context, [each])[1], context, f"{name} {each}")


def _parameters(command: Any) -> str:
    if not command.params:
        return "It takes no arguments.\n"
    return "| argument | value | default |\n|---|---|---|\n" + "".join(_row(command, each) for each in command.params)


def _row(command: Any, parameter: Any) -> str:
    context = typer.Context(command)
    is_option = parameter.param_type_name == "option"
    name = "/".join([*parameter.opts, *parameter.secondary_opts]) if is_option else parameter.name.upper()
    kind = parameter.display_type(context).strip("<>").replace("|", " or ")
    kind = "" if kind == "bool" else f"{kind}; "
    default = "required" if parameter.required else f"`{parameter.default}`" if parameter.default else ""
    if parameter.default is False:
        default = "off"
    return f"| `{name}` | {cell((kind + (parameter.help or '')).rstrip('; '))} | {cell(default)} |\n"

"""`python -m tests.commands.tree > tests/commands/tree.txt`: every command with its help, its arguments and options.

Operators have them in scripts. The file was written by the code before commands were loaded when they are run; a change
of it is a change of the interface.
"""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from usage_tasks.cli import cli


def tree(command: Any, name: str) -> Iterator[str]:
    """Describe a command, then what is below it, in the order of its help."""
    context = typer.Context(command, info_name=name)
    yield name
    yield from (f"    {line}".rstrip() for line in (command.help or "").splitlines())
    for parameter in command.params:
        yield f"  {_describe(parameter, context)}"
    for each in getattr(command, "list_commands", lambda _: [])(context):
        yield from tree(command.resolve_command(context, [each])[1], f"{name} {each}")


def _describe(parameter: Any, context: typer.Context) -> str:
    parts = ["/".join([*parameter.opts, *parameter.secondary_opts]), parameter.display_type(context)]
    parts += ["required"] * parameter.required + ["several"] * (
        parameter.nargs != 1 or getattr(parameter, "multiple", False)
    )
    if parameter.default is not None:
        parts.append(f"default {parameter.default!s}")
    bounds = [getattr(parameter, name, None) for name in ("min", "max")]
    parts += [f"from {bounds[0]} to {bounds[1]}"] * (bounds != [None, None])
    return f"{' '.join(parts)}: {parameter.help or ''}".rstrip(": ")


def lines() -> list[str]:
    """Describe the whole command line."""
    return list(tree(typer.main.get_command(cli), "usage-tasks"))


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")

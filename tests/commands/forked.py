"""`python -m tests.commands.forked`: run many command lines, each in a fork of a process that has imported everything.

Reads lines of JSON from standard input, each an object of `environment` and `commands`, a list of command lines, and
writes for each line a list of exit code and standard error of each command. A command does what `usage-tasks` does in
a process of its own with that environment, without a second of imports.
"""

import gc
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from typing import IO, Final

from usage_tasks import cli

SECONDS_MAX: Final = 60
AT_ONCE: Final = 25


def run_all(commands: Sequence[list[str]], environment: dict[str, str]) -> list[tuple[int, str]]:
    """Run command lines with these variables and no others, some at once: most of them wait for a peer."""
    done: list[tuple[int, str]] = []
    for first in range(0, len(commands), AT_ONCE):
        begun = [_begin(each, environment) for each in commands[first : first + AT_ONCE]]
        done += [_end(child, errors) for child, errors in begun]
    return done


def _begin(arguments: list[str], environment: dict[str, str]) -> tuple[int, IO[str]]:
    """Begin one command line; SIGALRM ends it after a while."""
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by _end
    if (child := os.fork()) == 0:
        signal.alarm(SECONDS_MAX)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors.fileno(), 2)
        os.environ.clear()
        os.environ.update(environment)
        _become(arguments)
    return child, errors


def _end(child: int, errors: IO[str]) -> tuple[int, str]:
    with errors:
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return os.waitstatus_to_exitcode(status), errors.read()


def _become(arguments: list[str]) -> None:
    code: object = 0
    sys.argv = ["usage-tasks", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    except Exception:  # noqa: BLE001 - shown as Python shows it
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    for entry in cli.COMMANDS.values():
        import_module(f"usage_tasks.commands.{entry.place.partition(':')[0]}")
    gc.freeze()
    gc.disable()  # a child is gone before it would be worth it
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(f"{json.dumps(run_all(asked['commands'], asked['environment']))}\n")
        sys.stdout.flush()

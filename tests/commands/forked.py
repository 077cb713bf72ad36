"""`python -m tests.commands.forked`: run many command lines, each in a fork of a process that has imported everything.

Reads lines of JSON from standard input, each an object of `environment` and `commands`, a list of command lines, and
writes for each line a list of exit code and standard error of each command. A command does what `usage-tasks` does in
a process of its own with that environment, without a second of imports.
"""

import json
import os
import signal
import sys
import tempfile
from importlib import import_module
from typing import Final

from usage_tasks import cli

SECONDS_MAX: Final = 60


def run(arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run one command line with these variables and no others; SIGALRM ends it after a while."""
    with tempfile.TemporaryFile("w+") as errors:
        if (child := os.fork()) == 0:
            signal.alarm(SECONDS_MAX)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(errors.fileno(), 2)
            os.environ.clear()
            os.environ.update(environment)
            _become(arguments)
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
    for line in sys.stdin:
        asked = json.loads(line)
        done = [run(each, asked["environment"]) for each in asked["commands"]]
        sys.stdout.write(f"{json.dumps(done)}\n")
        sys.stdout.flush()

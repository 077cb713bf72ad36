"""`usage-tasks poison`: messages that were set aside, listed, sent again, dropped."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from usage_tasks.celery import app
from usage_tasks.coordination import dead_letters
from usage_tasks.coordination.dead_letters import DeadLetter
from usage_tasks.runtime import runtime

poison = typer.Typer(
    help="The messages that were set aside: they killed their workers or failed for good.", no_args_is_help=True
)

TaskId = Annotated[str, typer.Argument(help="as `usage-tasks poison list` shows it")]


@poison.command("list")
def list_poison() -> None:
    """List what is set aside, the oldest first, as JSON lines; arguments by their names only."""
    for each in dead_letters.list_dead_letters(runtime().redis):
        shown = asdict(each) | {"args": len(each.args), "kwargs": sorted(each.kwargs)}
        sys.stdout.write(json.dumps(shown) + "\n")


@poison.command()
def replay(task_id: TaskId) -> None:
    """Send a message again, under the same id, and take it off the list."""
    message = _get(task_id)
    app.send_task(message.task, args=list(message.args), kwargs=dict(message.kwargs), task_id=message.task_id)
    dead_letters.remove_dead_letter(runtime().redis, task_id)
    sys.stdout.write(f"{message.task} was sent again\n")


@poison.command()
def drop(task_id: TaskId) -> None:
    """Take a message off the list for good; what it was about is still in the tables, if it ever was."""
    message = _get(task_id)
    dead_letters.remove_dead_letter(runtime().redis, task_id)
    sys.stdout.write(f"{message.task} was dropped\n")


def _get(task_id: str) -> DeadLetter:
    for each in dead_letters.list_dead_letters(runtime().redis):
        if each.task_id == task_id:
            return each
    raise typer.BadParameter(f"{task_id!r} is not parked", param_hint="TASK_ID")

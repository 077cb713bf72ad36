"""`usage-tasks poison`: messages that were set aside, listed, sent again, dropped."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from usage_tasks.celery import app
from usage_tasks.coordination import dead_letters, waiting_messages
from usage_tasks.coordination.dead_letters import DeadLetter
from usage_tasks.coordination.waiting_messages import StoredEntry
from usage_tasks.runtime import runtime
from usage_tasks.worker.waiting import send_waiting

poison = typer.Typer(
    help="The messages that were set aside: they killed their workers, failed for good, or no worker knows them.",
    no_args_is_help=True,
)

TaskId = Annotated[str, typer.Argument(help="as `usage-tasks poison list` shows it")]


@poison.command("list")
def list_poison() -> None:
    """List what is set aside, the oldest first, as JSON lines; arguments by their names only.

    `waits`: a worker of a newer version takes the message by itself.
    """
    client = runtime().redis
    shown = [
        asdict(each) | {"args": len(each.args), "kwargs": sorted(each.kwargs), "waits": False}
        for each in dead_letters.list_dead_letters(client)
    ]
    for each in waiting_messages.list_waiting(client):
        named = {name: getattr(each, name) for name in ("task_id", "task", "args", "kwargs", "reason")}
        shown.append(named | {"parked_at": each.waits_since, "waits": True})
    for line in sorted(shown, key=lambda each: str(each["parked_at"])):
        sys.stdout.write(json.dumps(line) + "\n")


@poison.command()
def replay(task_id: TaskId) -> None:
    """Send a message again, under the same id, and take it off the list."""
    message = _get(task_id)
    if isinstance(message, StoredEntry):
        if not send_waiting(app, message):
            raise typer.BadParameter(f"{task_id!r} is being sent by a worker", param_hint="TASK_ID")
        task = message.message.task
    else:
        task = message.task
        app.send_task(task, args=list(message.args), kwargs=dict(message.kwargs), task_id=message.task_id)
        dead_letters.remove_dead_letter(runtime().redis, task_id)
    sys.stdout.write(f"{task} was sent again\n")


@poison.command()
def drop(task_id: TaskId) -> None:
    """Take a message off the list for good; what it was about is still in the tables, if it ever was."""
    message = _get(task_id)
    if isinstance(message, StoredEntry):
        waiting_messages.remove_message(runtime().redis, message)
        task = message.message.task
    else:
        dead_letters.remove_dead_letter(runtime().redis, task_id)
        task = message.task
    sys.stdout.write(f"{task} was dropped\n")


def _get(task_id: str) -> DeadLetter | StoredEntry:
    client = runtime().redis
    for each in dead_letters.list_dead_letters(client):
        if each.task_id == task_id:
            return each
    if waiting := waiting_messages.find_waiting(client, task_id):
        return waiting
    raise typer.BadParameter(f"{task_id!r} is not parked", param_hint="TASK_ID")

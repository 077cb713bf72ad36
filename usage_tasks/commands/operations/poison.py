"""`usage-tasks poison`: dead letters and unreadable messages, listed, shown, sent again, dropped."""

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from usage_tasks.celery import app
from usage_tasks.coordination import dead_letters, unreadable_messages, waiting_messages
from usage_tasks.coordination.celery_internals.calls import check_item
from usage_tasks.coordination.celery_internals.envelope import UnreadableError
from usage_tasks.coordination.celery_internals.queues import list_key
from usage_tasks.coordination.dead_letters import DeadLetter
from usage_tasks.coordination.unreadable_messages import UnreadableMessage
from usage_tasks.coordination.waiting_messages import StoredEntry
from usage_tasks.runtime import runtime
from usage_tasks.worker.waiting import send_waiting

poison = typer.Typer(
    help="The messages that were set aside: they killed their workers, failed for good, are unknown or unreadable.",
    no_args_is_help=True,
)

TaskId = Annotated[str, typer.Argument(help="as `usage-tasks poison list` shows it")]
_LINE = ("task_id", "task", "args", "kwargs", "reason")


@poison.command("list")
def list_poison() -> None:
    """List dead letters and waiting messages, the oldest first, as JSON lines; arguments by their names only.

    `waits`: a worker of a newer version takes the message by itself. `unreadable`: no task was begun; such a line has
    the queue and the length in bytes, and `task_id` is an id of the message.
    """
    client = runtime().redis
    shown = [_line(each) for each in dead_letters.list_dead_letters(client)]
    shown += [_line(each) for each in unreadable_messages.list_unreadable(client)]
    shown += [_line(each) for each in waiting_messages.list_waiting(client)]
    for line in sorted(shown, key=lambda each: str(each["parked_at"])):
        sys.stdout.write(json.dumps(line) + "\n")


@poison.command()
def show(task_id: TaskId) -> None:
    """Show the kept part of a message, as one JSON object; of an unreadable one its first 64 kB.

    `content`: the bytes as a text, or in base64 where `content_is_base64`. `length` and `sha256` are of the whole
    message. Of the others the arguments are shown by their names only.
    """
    message = _get(task_id)
    if isinstance(message, UnreadableMessage):
        line = _line(message) | asdict(message) | {"task_id": message.message_id, "sender_task_id": message.task_id}
    else:
        line = _line(message.message if isinstance(message, StoredEntry) else message)
    sys.stdout.write(json.dumps(line, indent=2) + "\n")


@poison.command()
def replay(task_id: TaskId) -> None:
    """Send a message again, under the same id, and take it off the list.

    An unreadable one is sent as it was, to the queue that it came from, if this version can read it.
    """
    message = _get(task_id)
    if isinstance(message, StoredEntry):
        if not send_waiting(app, message):
            raise typer.BadParameter(f"{task_id!r} is being sent by a worker", param_hint="TASK_ID")
        task = message.message.task
    elif isinstance(message, UnreadableMessage):
        task = _name(message)
        _send_bytes(message)
    else:
        task = message.task
        app.send_task(task, args=list(message.args), kwargs=dict(message.kwargs), task_id=message.task_id)
        dead_letters.remove_dead_letter(runtime().redis, task_id)
    sys.stdout.write(f"{task} was sent again\n")


@poison.command()
def drop(task_id: TaskId) -> None:
    """Take a message off the list for good; the rows that it was about stay in the tables."""
    message = _get(task_id)
    if isinstance(message, StoredEntry):
        waiting_messages.remove_message(runtime().redis, message)
        task = message.message.task
    elif isinstance(message, UnreadableMessage):
        unreadable_messages.remove_unreadable(runtime().redis, task_id)
        task = _name(message)
    else:
        dead_letters.remove_dead_letter(runtime().redis, task_id)
        task = message.task
    sys.stdout.write(f"{task} was dropped\n")


def _line(message: Any) -> dict[str, Any]:
    """Return the line of the list for a message of any of the three kinds."""
    if isinstance(message, UnreadableMessage):
        named: dict[str, Any] = {
            "task_id": message.message_id,
            "task": message.task,
            "args": 0,
            "kwargs": [],
            "reason": message.reason,
        }
        more = {"parked_at": message.parked_at, "waits": False, "queue": message.queue, "length": message.length}
        return named | more | {"unreadable": True}
    if isinstance(message, DeadLetter):
        named = asdict(message) | {"args": len(message.args), "kwargs": sorted(message.kwargs)}
        return named | {"waits": False, "unreadable": False}
    named = {name: getattr(message, name) for name in _LINE}
    return named | {"parked_at": message.waits_since, "waits": True, "unreadable": False}


def _name(message: UnreadableMessage) -> str:
    return message.task or "an unreadable message"


def _send_bytes(message: UnreadableMessage) -> None:
    """Put a message into its queue as it was. Raises BadParameter if that makes no sense."""
    why = None
    if message.queue is None:
        why = "it was in no queue"
    elif not message.is_whole:
        why = f"only the first {unreadable_messages.KEPT_BYTES_MAX:,} of its {message.length:,} bytes are kept"
    else:
        try:
            check_item(message.read_content(), message.queue)
        except UnreadableError as error:
            why = f"it is still unreadable: {error}"
    if message.queue is None or why is not None:
        raise typer.BadParameter(f"{message.message_id!r} cannot be sent again: {why}", param_hint="TASK_ID")
    client = runtime().redis
    client.lpush(list_key(client, message.queue), message.read_content())
    unreadable_messages.remove_unreadable(client, message.message_id)


def _get(task_id: str) -> DeadLetter | StoredEntry | UnreadableMessage:
    client = runtime().redis
    for each in dead_letters.list_dead_letters(client):
        if each.task_id == task_id:
            return each
    if unreadable := unreadable_messages.find_unreadable(client, task_id):
        return unreadable
    if waiting := waiting_messages.find_waiting(client, task_id):
        return waiting
    raise typer.BadParameter(f"{task_id!r} is not parked", param_hint="TASK_ID")

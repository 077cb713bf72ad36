"""Pages of the tasks: a page for each queue, and what all tasks have in common."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter

import usage_tasks.tasks
from tests.docs.reference.shapes import Schema, cell, describe_fields, find_objects, in_words, paragraphs, resolve
from usage_tasks.domain.access import Role
from usage_tasks.domain.durations import format_duration
from usage_tasks.tasks.access import Needs
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS, DECLARATIONS

_WHO: Final = {
    Role.MEMBER: "a member of the team (their own part), an owner, an administrator, a service",
    Role.OWNER: "an owner of the account, an administrator, a service",
    Role.ADMINISTRATOR: "an administrator of the installation, a service",
    Role.SERVICE: "a service",
}
_NOBODY: Final = "the installation itself: it takes no actor"
_QUEUES: Final = {
    "usage": "Sessions, the ledger, limits, prices, grants and reports",
    "billing": "Customers, subscriptions, invoices and meter reports in Stripe",
    "stripe": "Events of Stripe",
    "directory": "Users and teams, as the platform reports them",
    "maintenance": "Checks of the ledger, and the announcements to the platform",
}
_INDEX_HEAD: Final = """\
# Tasks

Every task that a platform or an operator can send. A task is sent by its name; the first part of the name is its queue.
Arguments go by name, as JSON. `usage-tasks schemas` prints the same as JSON Schema.

- `actor`: who asks, `service:<name>` for the platform or `user:<id>`. The directory decides what a user may do.
- `attribution_id`: the account, `team:<id>` or `user:<id>`.
- The id of a session, a user or a team is a UUID, or the platform's own: up to 200 printable characters, which stand
  for one UUID ([ADR 0035](../adr/0035-names.md)). Answers have UUIDs, and names beside them where there are any:
  `account_external_id` and `account_name` beside `attribution_id`, `user_...` beside `user_id`, `session_...` beside
  `instance_id`; at the top also those of the account, user and session that were asked about.
- `at`: the instant that the task is about; default: now. Up to 5 minutes ahead counts as now; more is refused. A user
  may read up to 366 days back, and acts now. Only a service may act in the past.
- `dry_run`: true: return what would be written in `{"dry_run": ...}`; write, send and count nothing.
- `scheduled`: true in the messages of beat: run only if a due time has not been run yet.

A credit is the unit that customers see. A name that ends in `_cents` is in hundredths of a credit, unless the text has
another unit. An instant is ISO 8601 text with an offset. A bad argument is refused at once and never retried; the error
names it.

A message can be lost if a worker is killed at the wrong moment. `usage_tasks_client.record` waits for the answer and
sends again; every task may be sent twice, and counts once.

| task | purpose | who may |
|---|---|---|
"""


def render() -> Mapping[str, str]:
    """Return the index of the tasks and a page for each queue."""
    for each in pkgutil.walk_packages(usage_tasks.tasks.__path__, "usage_tasks.tasks."):
        importlib.import_module(each.name)
    pages = {"tasks.md": _INDEX_HEAD + "".join(_row(name) for queue in _QUEUES for name in _names(queue))}
    return pages | {f"tasks/{queue}.md": _page(queue) for queue in _QUEUES}


def _names(queue: str) -> list[str]:
    return sorted(name for name in DECLARATIONS if name.startswith(f"{queue}."))


def _row(name: str) -> str:
    declared = DECLARATIONS[name]
    queue, anchor = name.partition(".")[0], name.replace(".", "")
    first = paragraphs(declared.function.__doc__).split("\n\n")[0]
    return f"| [`{name}`](tasks/{queue}.md#{anchor}) | {cell(first)} | {_who_shortly(declared.needs)} |\n"


def _who_shortly(needs: Needs | None) -> str:
    return needs.name.lower() if isinstance(needs, Role) else "nobody else" if needs is None else "depends"


def _page(queue: str) -> str:
    names = _names(queue)
    head = f"# Tasks of the queue `{queue}`\n\n{_QUEUES[queue]}. [All tasks](../tasks.md) has what they share.\n"
    objects = dict(each for name in names for each in _objects(name))
    shapes = "".join(
        f"\n### {name}\n{paragraphs(shape.get('description'))}\n\n{describe_fields(shape, definitions, defaults=False)}"
        for name, (shape, definitions) in sorted(objects.items())
    )
    return head + "".join(_section(name) for name in names) + (f"\n## Shapes\n{shapes}" if shapes else "")


def _section(name: str) -> str:
    declared, arguments = DECLARATIONS[name], ARGUMENT_SCHEMAS[name]
    who = _WHO[declared.needs] if isinstance(declared.needs, Role) else _NOBODY
    if declared.needs is not None and not isinstance(declared.needs, Role):
        who = paragraphs(declared.needs.__doc__)
    again = f"up to {declared.attempts_max} times" if declared.attempts_max else "never"
    limit = format_duration(declared.time_limit)
    facts = f"- Who may: {who}\n- Time limit: {limit}; retried while a server is away: {again}\n"
    table = describe_fields(arguments, arguments.get("$defs", {}), defaults=True) if arguments["properties"] else ""
    asked = f"\nArguments:\n\n{table}" if table else "\nIt takes no arguments.\n"
    return f"\n## {name}\n{paragraphs(declared.function.__doc__)}\n\n{facts}{asked}\n{_answer(name)}"


def _schema(name: str) -> Schema:
    """Return the schema of a task's answer."""
    hints = get_type_hints(DECLARATIONS[name].function)
    return TypeAdapter(hints["return"]).json_schema(mode="serialization")


def _variants(schema: Schema) -> list[Schema]:
    definitions = schema.get("$defs", {})
    return [resolve(each, definitions) for each in schema.get("anyOf", [schema])]


def _answer(name: str) -> str:
    schema = _schema(name)
    definitions = schema.get("$defs", {})
    parts = []
    for each in _variants(schema):
        if each["title"] == "DryRun":
            planned = resolve(each["properties"]["dry_run"], definitions)
            words = "the same fields" if planned in _answers(name) else in_words(planned, definitions)
            parts.append(f"With `dry_run`: {words}.\n")
        elif each["title"] == "Skipped":
            parts.append(f'A message of beat may get `{{"skipped": 1}}`: {paragraphs(each["description"])}\n')
        else:
            fields = describe_fields(each, definitions, defaults=False)
            parts.append(f"Answer: {paragraphs(each.get('description'))}\n\n{fields}")
    return "\n".join(parts)


def _objects(name: str) -> Iterator[tuple[str, tuple[Schema, Mapping[str, Any]]]]:
    """Yield the objects within the answers and the arguments, that are listed once for a page."""
    for schema in (ARGUMENT_SCHEMAS[name], _schema(name)):
        definitions = schema.get("$defs", {})
        for title, each in find_objects(schema, definitions):
            if title not in {"DryRun", "Skipped"} and each not in _answers(name):
                yield title, (each, definitions)


def _answers(name: str) -> list[Schema]:
    return [each for each in _variants(_schema(name)) if "$defs" not in each]

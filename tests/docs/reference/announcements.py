"""Page of the announcements."""

from typing import Final

from pydantic import TypeAdapter

from tests.docs.reference.shapes import cell, describe_fields, paragraphs
from usage_tasks.domain.announcements import ANNOUNCEMENTS

_HEAD: Final = """\
# Announcements

Every message that usage-tasks sends to the platform. Each is a Celery task on the queue `server`; its fields are the
arguments of the task, by name, and all of them are always there. Delivery is at least once: the same task id is the
same announcement.

Beside `attribution_id` stand `account_external_id` and `account_name`, beside `user_id` stand `user_external_id` and
`user_name`, as they are when the message is sent. A name that is not there has no field.

A Celery worker drops a message whose task it does not know. So a consumer declares every name of this page;
`usage_tasks_client.listen` does it. Update the consumer before usage-tasks when a new release adds an announcement.

| announcement | meaning |
|---|---|
"""


def render() -> str:
    """Return the page."""
    rows = "".join(
        f"| [`{name}`](#{name.replace('.', '')}) | {cell(paragraphs(each.__doc__).split(chr(10))[0])} |\n"
        for name, each in ANNOUNCEMENTS.items()
    )
    return _HEAD + rows + "".join(_section(name) for name in ANNOUNCEMENTS)


def _section(name: str) -> str:
    message = ANNOUNCEMENTS[name]
    schema = TypeAdapter(message).json_schema(mode="serialization")
    fields = describe_fields(schema, schema.get("$defs", {}), defaults=False)
    return f"\n## {name}\n{paragraphs(message.__doc__)}\n\n{fields}"

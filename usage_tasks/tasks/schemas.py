"""The JSON Schemas of what goes over the wire: the arguments of tasks, and of messages to the platform."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter

from usage_tasks.domain.announcements import ANNOUNCEMENTS, Announcement
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS

_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 200}


def list_schemas() -> Mapping[str, dict[str, Any]]:
    """Return the schema of every declared task's arguments and of every message to the platform, by name.

    A task is declared when its module is imported.
    """
    return {**ARGUMENT_SCHEMAS, **{name: _schema_of(message) for name, message in ANNOUNCEMENTS.items()}}


def _schema_of(message: type[Announcement]) -> dict[str, Any]:
    """Describe a message as it is sent: every field is there, names where there are any, and no other field."""
    schema = TypeAdapter(message).json_schema(mode="serialization")
    properties = schema["properties"]
    named = ["account", "user"] if "user_id" in properties else ["account"]
    names = {f"{word}_{name}": _NAME for word in named for name in ("external_id", "name")}
    return schema | {
        "properties": properties | names,
        "required": [*properties],
        "additionalProperties": False,
    }

"""The JSON Schemas of what goes over the wire: the arguments of tasks, and of messages to the platform."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from usage_tasks.domain.announcements import ANNOUNCEMENTS, Announcement
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS


def list_schemas() -> Mapping[str, dict[str, Any]]:
    """Return the schema of every declared task's arguments and of every message to the platform, by name.

    A task is declared when its module is imported.
    """
    return ARGUMENT_SCHEMAS | {name: _schema_of(message) for name, message in ANNOUNCEMENTS.items()}


def _schema_of(message: type[Announcement]) -> dict[str, Any]:
    """Describe a message as it is sent: every field is there, and no other."""
    schema = TypeAdapter(message).json_schema(mode="serialization")
    return schema | {"required": [*schema["properties"]], "additionalProperties": False}

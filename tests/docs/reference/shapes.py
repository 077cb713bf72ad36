"""JSON Schemas in words: the type of a value, and tables of the fields of an object."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

_FORMATS: Final = {"date-time": "instant", "uuid": "UUID", "email": "e-mail address", "duration": "duration"}
_PLAIN: Final = {"boolean": "true or false", "integer": "whole number", "number": "number", "null": "null"}
_OPEN: Final = "object"
_NAMED: Final = {
    "team:<id> or user:<id>": "account",
    "who asks: user:<id> or service:<name>": "actor",
    "a UUID, or the platform's own id of the session": "session's id",
    "a UUID, or the platform's own id of the user": "user's id",
    "a UUID, or the platform's own id of the team": "team's id",
    "credits as decimal text, such as 12.50": 'credits as text, such as `"12.50"`',
}
"""Descriptions of values that many tasks have; the page of all tasks explains them."""


def cell(text: str) -> str:
    """Return a text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def paragraphs(docstring: str | None) -> str:
    """Return a docstring without its indentation, each paragraph on a line of its own."""
    blocks = (docstring or "").strip().split("\n\n")
    return "\n\n".join(" ".join(block.split()) for block in blocks)


def resolve(schema: Schema, definitions: Schema) -> Schema:
    """Follow a reference into the definitions."""
    reference = schema.get("$ref")
    return schema if reference is None else definitions[reference.rpartition("/")[2]]


def in_words(schema: Schema, definitions: Schema) -> str:
    """Return the type of a value in words; an object by the name under which its fields are listed."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(in_words(each, definitions) for each in schema["anyOf"]))
    found = resolve(schema, definitions)
    if values := found.get("enum", [found["const"]] if "const" in found else []):
        return ", ".join("null" if each is None else f"`{each}`" for each in values)
    match found:
        case {"description": str(words)} if words in _NAMED:
            return _NAMED[words]
        case {"type": "array"}:
            most = f"up to {found['maxItems']:,} " if "maxItems" in found else ""
            return f"list of {most}{in_words(found.get('items', {}), definitions)}"
        case {"type": "object", "properties": _}:
            return f"[{found['title']}](#{found['title'].lower()})"
    return _scalar(found)


def _scalar(schema: Schema) -> str:
    match schema:
        case {"type": "string"}:
            return _FORMATS.get(schema.get("format", ""), "text")
        case {"type": "integer", "minimum": low, "maximum": high}:
            return f"whole number from {low:,} to {high:,}"
    return _PLAIN.get(str(schema.get("type")), _OPEN)


def describe_fields(schema: Schema, definitions: Schema, *, defaults: bool) -> str:
    """Return the table of an object's fields; with `defaults` a third column has what holds where one is left out."""
    required = set(schema.get("required", ()))
    head = "| name | value | default |\n|---|---|---|\n" if defaults else "| name | value |\n|---|---|\n"
    rows = []
    for name, field in schema["properties"].items():
        words = in_words(field, definitions)
        notes = cell(field.get("description", ""))
        value = words if not notes or notes in _NAMED else f"{words}: {notes}"
        default = "required" if name in required else f"`{_spelled(field.get('default'))}`"
        rows.append(f"| `{name}` | {value} | {default} |\n" if defaults else f"| `{name}` | {value} |\n")
    return head + "".join(rows)


def _spelled(value: object) -> str:
    return json.dumps(value)


def find_objects(schema: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield every object within a schema that has fields, with its name; the schema itself is not among them."""
    inner = [
        *schema.get("properties", {}).values(),
        *schema.get("anyOf", ()),
        *([schema["items"]] if "items" in schema else ()),
    ]
    for each in inner:
        found = resolve(each, definitions)
        if found.get("type") == "object" and "properties" in found:
            yield found["title"], found
        yield from find_objects(found, definitions)

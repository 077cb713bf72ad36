"""Objects as Stripe's official description has them, and each way in which they may lack a field."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "stripe" / "stripe-openapi-core.json"
DEPTH_MAX = 4
Json = dict[str, Any]
Place = tuple[str | int, ...]


@cache
def schemas() -> Json:
    found: Json = json.loads(DATA.read_text())["components"]["schemas"]
    return found


def example(name: str, **fields: Any) -> Json:
    """An object of a kind with every field that Stripe describes, and the given fields."""
    return {**_object(schemas()[name], depth=0), **fields}


def _object(schema: Json, *, depth: int) -> Json:
    needed = schema.get("required", [])
    fields = schema.get("properties", {})
    found = {name: _value(one, depth=depth + 1) for name, one in fields.items() if depth < DEPTH_MAX or name in needed}
    return found | {name: "1" for name, text in found.items() if name.endswith("_decimal") and isinstance(text, str)}


def _value(schema: Json, *, depth: int) -> Any:
    if "anyOf" in schema:
        texts = [one for one in schema["anyOf"] if one.get("type") == "string"]
        return _value((texts or schema["anyOf"])[0], depth=depth)
    if "$ref" in schema:
        return _object(schemas()[schema["$ref"].rpartition("/")[2]], depth=depth)
    if schema.get("enum"):
        return next(word for word in schema["enum"] if word)
    if schema.get("type") == "object":
        if "data" in schema.get("properties", {}):
            return {"object": "list", "data": [], "has_more": False, "url": "/v1/things"}
        return _object(schema, depth=depth)
    return {"string": "some_text", "integer": 1, "number": 1, "boolean": False, "array": []}[schema["type"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """An object with one field that is null or absent, and where that is: `lines.data.pricing`, `null`."""

    path: str
    how: str
    body: Json


def lacks(name: str, body: Json) -> Iterator[Lack]:
    """Every way in which an object of a kind may lack a field that it has, one at a time."""
    for path, how in _lacks(schemas()[name], body, ()):
        named = ".".join(step for step in path if isinstance(step, str))
        yield Lack(path=named, how=how, body=_without(body, path, how))


def _without(value: Any, path: Place, how: str) -> Any:
    """Return a value that lacks the field at a path; beside the path it shares its parts with the whole one."""
    changed, (step, *further) = copy.copy(value), path
    if further:
        changed[step] = _without(value[step], tuple(further), how)
    elif how == "null":
        changed[step] = None
    else:
        del changed[step]
    return changed


def _lacks(schema: Json, value: Any, path: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _lacks(_resolved(schema.get("items", {}), each), each, (*path, index))
    if not isinstance(value, dict):
        return
    for name, field in schema.get("properties", {}).items():
        if name not in value:
            continue
        if field.get("nullable") and value[name] is not None:
            yield (*path, name), "null"
        if name not in schema.get("required", []):
            yield (*path, name), "absent"
        yield from _lacks(_resolved(field, value[name]), value[name], (*path, name))


def _resolved(schema: Json, value: Any) -> Json:
    """Return the schema that describes a value; of several, the schema of the value's kind of object."""
    options = [_referred(one) for one in schema.get("anyOf", [schema])]
    if not isinstance(value, dict):
        return next((one for one in options if one.get("type") == "array"), {})
    fitting = [one for one in options if value.get("object") in _kinds(one)]
    return (fitting or [one for one in options if one.get("properties")] or [{}])[0]


def _referred(schema: Json) -> Json:
    found: Json = schemas()[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _kinds(schema: Json) -> list[str]:
    kinds: list[str] = schema.get("properties", {}).get("object", {}).get("enum", [])
    return kinds

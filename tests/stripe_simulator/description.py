"""Stripe's OpenAPI description as a judge of requests and replies; objects are closed, so a misspelt name fails."""

import json
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema_rs

from tests.stripe_simulator.thin_events import check_event

DATA = Path(__file__).parents[1] / "data" / "stripe"
Json = dict[str, Any]


@cache
def document() -> Json:
    core: Json = json.loads((DATA / "stripe-openapi-core.json").read_text())
    overlay: Json = json.loads((DATA / "stripe-endive-overlay.json").read_text())
    for name, change in overlay["requests"].items():
        method, _, path = name.partition(" ")
        operation = core["paths"].get(path, {}).get(method)
        if operation is not None:
            _overlay_body(operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"], change)
    for name, change in overlay["responses"].items():
        if name in core["components"]["schemas"]:
            core["components"]["schemas"][name]["properties"] |= {added: {} for added in change["added"]}
    strict: Json = _strict(core)
    return strict


def _overlay_body(schema: Json, change: Json) -> None:
    for name in change.get("removed", []):
        schema["properties"].pop(name, None)
    schema["properties"] |= {name: {} for name in change.get("added", [])}
    schema["properties"] |= {name: {"type": "object"} for name in change.get("changed", {}) if "." not in name}


def _strict(node: Any) -> Any:
    """Close every object that lists its properties, and write OpenAPI's `nullable` as JSON Schema does."""
    if isinstance(node, list):
        return [_strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(value) for key, value in node.items()}
    if strict.get("type") == "object" and strict.get("properties"):
        strict.setdefault("additionalProperties", False)
    if strict.pop("nullable", False) is True:
        return {"anyOf": [strict, {"type": "null"}]}
    return strict


def check_object(value: Json) -> None:
    """Hold an object against the schema of its type."""
    name = f"deleted_{value['object']}" if value.get("deleted") else value["object"]
    _validator(json.dumps({"$ref": f"#/components/schemas/{name}"})).validate(value)


def check_exchange(method: str, url: str, body: str | None, status: int, reply: Json) -> None:
    """Hold a reply against the description, and an accepted request too."""
    if status == 200 and urlsplit(url).path.startswith("/v2/"):
        for event in reply["data"] if "next_page_url" in reply else [reply]:
            check_event(event)
        return
    operation = _operation(method, urlsplit(url).path)
    if status != 200:
        _validator(json.dumps({"$ref": "#/components/schemas/error"})).validate(reply)
        return
    assert operation is not None, f"{method} {url} isn't in the description, and was accepted"
    _validator(json.dumps(operation["responses"]["200"]["content"]["application/json"]["schema"])).validate(reply)
    schema = _request_schema(operation, method)
    form = _tree("&".join(part for part in (urlsplit(url).query, body) if part))
    _validator(json.dumps(schema)).validate(_typed(form, schema))


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**json.loads(schema), "components": document()["components"]})


def _operation(method: str, path: str) -> Json | None:
    parts = path.split("/")
    candidates = [
        (template.count("{"), operations[method.lower()])
        for template, operations in document()["paths"].items()
        if method.lower() in operations
        and len(parts) == template.count("/") + 1
        and all(wanted.startswith("{") or wanted == part for part, wanted in _pairs(parts, template))
    ]
    return min(candidates, key=lambda candidate: candidate[0])[1] if candidates else None


def _pairs(parts: list[str], template: str) -> list[tuple[str, str]]:
    return list(zip(parts, template.split("/"), strict=True))


def _request_schema(operation: Json, method: str) -> Json:
    if method != "get" and "requestBody" in operation:
        schema: Json = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
        return schema
    query = [parameter for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
    return {
        "type": "object",
        "properties": {parameter["name"]: parameter["schema"] for parameter in query},
        "required": [parameter["name"] for parameter in query if parameter["required"]],
        "additionalProperties": False,
    }


def _tree(text: str) -> Json:
    tree: Json = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        *path, last = key.replace("]", "").split("[")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def _typed(value: Any, schema: Json) -> Any:
    """Give form values the types of the schema. A value that doesn't fit stays text and fails there."""
    options = schema.get("anyOf", [schema])
    if isinstance(value, dict):
        for option in options:
            if option.get("type") == "array":
                return [_typed(value[key], option["items"]) for key in sorted(value, key=int)]
            if option.get("type") == "object":
                fields, rest = option.get("properties", {}), option.get("additionalProperties")
                extra = rest if isinstance(rest, dict) else {}
                return {key: _typed(one, fields.get(key, extra)) for key, one in value.items()}
        return value
    kinds = {option.get("type") for option in options}
    if "integer" in kinds and value.lstrip("-").isdigit():
        return int(value)
    return {"true": True, "false": False}.get(value, value) if "boolean" in kinds else value

"""Form bodies and query strings, decoded by their brackets: `a[0][b]=c` is `{"a": {"0": {"b": "c"}}}`."""

import re
from urllib.parse import parse_qsl

from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import Form

FIELDS_MAX = 1000
DEPTH_MAX = 6
_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


def decode(text: str) -> Form:
    """Decode what the SDK sends. A list keeps its indices as keys; `params` turns it into a list."""
    form: Form = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError as error:
        raise ApiError(f"Invalid form body: {error}") from error
    for key, value in pairs:
        _insert(form, key, value)
    return form


def _insert(form: Form, key: str, value: str) -> None:
    match = _KEY.fullmatch(key)
    if match is None:
        raise ApiError(f"Invalid parameter name: {key}")
    parts = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
    if len(parts) > DEPTH_MAX:
        raise ApiError(f"Parameter nested too deeply: {key}")
    node = form
    for part in parts[:-1]:
        child = node.setdefault(part or str(len(node)), {})
        if isinstance(child, str):
            raise ApiError(f"Parameter is both a value and an object: {key}")
        node = child
    last = parts[-1] or str(len(node))
    if isinstance(node.get(last), dict):
        raise ApiError(f"Parameter is both a value and an object: {key}")
    node[last] = value

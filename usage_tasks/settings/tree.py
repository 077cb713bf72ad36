"""The settings before validation: a tree of JSON values, layer over layer, each with its origin."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

KeyPath = tuple[str, ...]

FILE_BYTES_MAX: Final = 1024 * 1024
# Two keys for one thing: setting one drops a lower layer's value of the other.
_RIVALS: Final[Mapping[KeyPath, KeyPath]] = {
    ("redis", "address"): ("redis", "url"),
    ("redis", "url"): ("redis", "address"),
    ("stripePrices", "individualUsagePriceId"): ("stripePrices", "individualUsagePriceIds"),
    ("stripePrices", "individualUsagePriceIds"): ("stripePrices", "individualUsagePriceId"),
    ("stripePrices", "teamUsagePriceId"): ("stripePrices", "teamUsagePriceIds"),
    ("stripePrices", "teamUsagePriceIds"): ("stripePrices", "teamUsagePriceId"),
}


@dataclass(slots=True, kw_only=True)
class Tree:
    """The values of file and environment together; only the model knows the types."""

    values: dict[str, object] = field(default_factory=dict)
    origin: str
    overridden_by: dict[KeyPath, str] = field(default_factory=dict)

    def origin_of(self, path: KeyPath) -> str:
        """Return the file, or the environment variable that set this key or a key around it."""
        for length in range(len(path), 0, -1):
            if (found := self.overridden_by.get(path[:length])) is not None:
                return found
        return self.origin

    def lay_over(self, layer: Mapping[KeyPath, tuple[str, object]]) -> None:
        """Set each path to its value and note its origin; wider paths first."""
        for path in sorted(layer, key=len):
            origin, value = layer[path]
            self._drop_rivals(path, layer)
            if self._set(path, value):
                self.overridden_by[path] = origin

    def children(self, path: KeyPath) -> list[str]:
        """The keys of the object at this path; none when there is no object."""
        node: object = self.values
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        return [key for key in node if isinstance(key, str)] if isinstance(node, dict) else []

    def leave_out(self, path: KeyPath) -> None:
        """Remove a key."""
        node: object = self.values
        for key in path[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(path[-1], None)

    def _set(self, path: KeyPath, value: object) -> bool:
        node = self.values
        for key in path[:-1]:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                # The lower layer is wrong there; validation reports it, and this value would hide it.
                return False
            node = child
        node[path[-1]] = value
        return True

    def _drop_rivals(self, path: KeyPath, layer: Mapping[KeyPath, object]) -> None:
        for length in range(1, len(path) + 1):
            rival = _RIVALS.get(path[:length])
            if rival is None or any(other[: len(rival)] == rival for other in layer):
                continue
            parent = self.values.get(rival[0])
            if isinstance(parent, dict):
                parent.pop(rival[1], None)


class _Object(dict[str, object]):
    """A JSON object that remembers which keys it was given twice."""

    repeated: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, object]]) -> _Object:
    result = _Object(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        result.repeated = tuple(key for key in result if keys.count(key) > 1)
    return result


def decode(text: str) -> object:
    """Return JSON with exact decimals. Raises ValueError with the place of a syntax error."""
    try:
        # NaN and Infinity, which only Python takes for JSON, become decimals that validation refuses.
        return json.loads(text, parse_float=Decimal, parse_constant=Decimal, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def repeated_keys(value: object, path: KeyPath = ()) -> list[KeyPath]:
    """The path of every key that occurs twice in its object."""
    if isinstance(value, list):
        return [found for item in value for found in repeated_keys(item, path)]
    if not isinstance(value, dict):
        return []
    own = [(*path, key) for key in value.repeated] if isinstance(value, _Object) else []
    return own + [found for key, child in value.items() for found in repeated_keys(child, (*path, key))]


def read_object(path: Path) -> tuple[dict[str, object] | None, list[str]]:
    """Return the JSON object in a file, and its problems; None if it can't be read."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no path"
        return None, [f"{path}: can't be read: {reason}"]
    if len(content) > FILE_BYTES_MAX:
        return None, [f"{path}: larger than {FILE_BYTES_MAX} bytes"]
    try:
        value = decode(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, [f"{path}: not UTF-8"]
    except ValueError as error:
        return None, [f"{path}: not JSON: {error}"]
    if not isinstance(value, dict):
        return None, [f"{path}: not a JSON object"]
    return value, [f"{path}: {'.'.join(key)}: occurs twice" for key in repeated_keys(value)]

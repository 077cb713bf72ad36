"""The environment variables of the settings' keys.

`USAGE_` and the key in upper snake case, `__` between a key and a key inside it:
`USAGE_CONTROLLER_SCHEDULE`, `USAGE_REDIS__ADDRESS`, `USAGE_DEFAULT_SPENDING_LIMIT__FOR_TEAMS`. Every key can
be set so, also a key with an object: its value is then JSON and takes the place of the whole object. In a
map (prices by class, price ids by currency) an existing name is found without regard to case and
punctuation, as variables have neither (`..._BY_WORKSPACE_CLASS__G1_LARGE` sets `g1-large`); a new one is added
in lower case.
Another variable with our prefix is a warning: a newer release may know it, and an older release must start.
`DATABASE_URL` and `REDIS_URL`, which every platform knows, come last and win; empty ones count as unset.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Annotated, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from usage_tasks.settings.model import Settings
from usage_tasks.settings.tree import KeyPath, Tree, decode, repeated_keys

PREFIX: Final = "USAGE_"
CONFIG_VARIABLE: Final = "USAGE_CONFIG"
ALLOW_UNKNOWN_VARIABLE: Final = "USAGE_ALLOW_UNKNOWN_KEYS"
# Variables with our prefix that are no settings: of a process rather than the installation, which telemetry reads; a
# secret, which is read where it is needed and nowhere else; and how the file is read.
DIRECTORY_KEY_VARIABLE: Final = "USAGE_DIRECTORY_KEY"
OTHER_VARIABLES: Final = frozenset(
    {
        ALLOW_UNKNOWN_VARIABLE,
        CONFIG_VARIABLE,
        DIRECTORY_KEY_VARIABLE,
        "USAGE_HEARTBEAT_DIR",
        "USAGE_LOG_LEVEL",
        "USAGE_METRICS_ADDRESS",
        "USAGE_METRICS_PORT",
    }
)
CONVENTIONAL_VARIABLES: Final[Mapping[str, KeyPath]] = {
    "DATABASE_URL": ("database", "url"),
    "REDIS_URL": ("redis", "url"),
}
_PUNCTUATION: Final = re.compile(r"[^A-Z0-9]")
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MAP_KEY: Final = re.compile(r"[A-Z0-9_]+")

log = logging.getLogger(__name__)

Layer = dict[KeyPath, tuple[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The key that a variable sets, and whether its value is text as it stands or JSON."""

    path: KeyPath
    text: bool


def list_fields(model: type[BaseModel] = Settings, path: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Yield every key of the settings, an object before its own keys."""
    for field in model.model_fields.values():
        key = (*path, str(field.alias))
        yield key, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from list_fields(field.annotation, key)


@cache
def warn(words: str) -> None:
    """Log a warning about the settings, once a process: they are loaded more than once."""
    log.warning("%s", words)


def variable_name(path: KeyPath) -> str:
    """The environment variable that sets a key."""
    return PREFIX + "__".join(_WORD_START.sub("_", key).upper() for key in path)


def apply_environment(tree: Tree, environ: Mapping[str, str]) -> list[str]:
    """Lay the environment over the tree; return its problems. Warn of a variable that is no setting."""
    fields = {variable_name(path): (path, field) for path, field in list_fields()}
    targets = {name: _Target(path=path, text=_is_text(field.annotation)) for name, (path, field) in fields.items()}
    maps = {f"{name}__": (path, field) for name, (path, field) in fields.items() if _is_map(field)}
    layer: Layer = {}
    problems: list[str] = []
    # In this order a map comes before the variables that set single keys of it.
    for name in sorted(name for name in environ if name.startswith(PREFIX) and name not in OTHER_VARIABLES):
        target = targets.get(name) or _in_map(name, maps, tree, layer)
        if target is None and name.startswith(tuple(maps)):
            problems.append(f"{_said(name)}: names no key, or more than one")
            continue
        if target is None:
            meant = get_close_matches(name, fields, n=1)
            warn(f"{_said(name)}: no such setting{f'; did you mean {meant[0]}?' if meant else ''}")
            continue
        value = environ[name] if target.text else _decoded(environ[name])
        problems += [f"{_said(name)}: {'.'.join(key)}: occurs twice" for key in repeated_keys(value, target.path)]
        layer[target.path] = (_said(name), value)
    tree.lay_over(layer)
    conventional = {name: path for name, path in CONVENTIONAL_VARIABLES.items() if environ.get(name)}
    tree.lay_over({path: (_said(name), environ[name]) for name, path in conventional.items()})
    return problems


def _in_map(name: str, maps: Mapping[str, tuple[KeyPath, FieldInfo]], tree: Tree, layer: Layer) -> _Target | None:
    for prefix, (path, field) in maps.items():
        wanted = name.removeprefix(prefix)
        if wanted == name or not _MAP_KEY.fullmatch(wanted):
            continue
        _, replaced = layer.get(path, ("", None))
        known = list(replaced) if isinstance(replaced, dict) else tree.children(path)
        same = [key for key in known if _PUNCTUATION.sub("_", key.upper()) == wanted]
        # Among several, such as "Large" and "large", a variable can't choose.
        if len(same) <= 1:
            key = same[0] if same else wanted.lower()
            return _Target(path=(*path, key), text=_is_text(get_args(field.annotation)[1]))
    return None


def _is_map(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is Mapping


def _is_text(annotation: object) -> bool:
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    if _is_union(annotation):
        return any(_is_text(part) for part in get_args(annotation))
    return annotation in {str, timedelta}


def _is_union(annotation: object) -> bool:
    return get_origin(annotation) in {Union, UnionType}


def _decoded(text: str) -> object:
    try:
        return decode(text)
    except ValueError:
        # Left as text: validation refuses it and names the allowed values.
        return text


def _said(name: str) -> str:
    return f"environment variable {name}"

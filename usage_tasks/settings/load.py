"""From a file and the environment to Settings, or to one error that lists every problem."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from usage_tasks.settings.environment import (
    ALLOW_UNKNOWN_VARIABLE,
    CONFIG_VARIABLE,
    apply_environment,
    list_fields,
    variable_name,
    warn,
)
from usage_tasks.settings.errors import SettingsError, UnknownOptionError, show
from usage_tasks.settings.model import Settings
from usage_tasks.settings.tree import KeyPath, Tree, read_object

_SECRETS: Final[frozenset[KeyPath]] = frozenset({("database", "url"), ("redis", "url")})


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings of the file that USAGE_CONFIG names, overridden by the environment.

    Without USAGE_CONFIG the environment alone must give the required keys. With USAGE_ALLOW_UNKNOWN_KEYS=true an
    unknown key is a warning: the file is that of a newer release.
    Raises SettingsError, which lists every problem with its origin, key, value and what is allowed.
    """
    tree, problems, complete = _read(environ)
    problems += apply_environment(tree, environ)
    try:
        if _allows_unknown_keys(environ):
            _leave_out_unknown_keys(tree)
        settings = Settings.model_validate(tree.values)
    except ValidationError as error:
        # Of a file that can't be read nothing is missing that it might not have.
        found = [problem for problem in error.errors(include_url=False) if complete or problem["type"] != "missing"]
        raise SettingsError([*problems, *_describe(found, tree)]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _allows_unknown_keys(environ: Mapping[str, str]) -> bool:
    value = environ.get(ALLOW_UNKNOWN_VARIABLE) or "false"
    if value not in {"true", "false"}:
        shown = show(value, secret=False)
        raise SettingsError([f"environment variable `{ALLOW_UNKNOWN_VARIABLE}`: must be true or false (got {shown})"])
    return value == "true"


def _leave_out_unknown_keys(tree: Tree) -> None:
    """Take the keys that are not known out of the tree, with a warning each."""
    try:
        Settings.model_validate(tree.values)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            if item["type"] == "extra_forbidden":
                path, _ = _path(item["loc"])
                tree.leave_out(path)
                place = f"{tree.origin_of(path)}: `{'.'.join(path)}`"
                warn(f"{place}: no such key; left out because of {ALLOW_UNKNOWN_VARIABLE}")


def _read(environ: Mapping[str, str]) -> tuple[Tree, list[str], bool]:
    name = environ.get(CONFIG_VARIABLE)
    if not name:
        return Tree(origin=f"environment (no {CONFIG_VARIABLE})"), [], True
    values, problems = read_object(Path(name))
    return Tree(values=values or {}, origin=name), problems, values is not None


def _describe(found: Iterable[Any], tree: Tree) -> list[str]:
    fields = dict(list_fields())
    allowed = {path: str(field.description) for path, field in fields.items()}
    problems: list[str] = []
    for item in found:
        path, in_key = _path(item["loc"])
        where = f"{tree.origin_of(path)}: `{'.'.join(path)}`"
        known_path = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in allowed), ())
        match item["type"]:
            case "extra_forbidden":
                siblings = sorted(key[-1] for key in fields if key[:-1] == path[:-1])
                known = f"known here: {', '.join(siblings)}" if siblings else f"must be {allowed[known_path]}"
                problem = f"{where}: no such key; {known}; {ALLOW_UNKNOWN_VARIABLE}=true leaves out a newer release's"
            case "missing":
                problem = f"{where}: must be {allowed[known_path]} (got nothing); {variable_name(path)} sets it too"
            case _:
                shown = "name not allowed" if in_key else show(item["input"], secret=path in _SECRETS)
                problem = f"{where}: must be {allowed[known_path]} (got {shown}{_reason(item, path)})"
        if problem not in problems:
            problems.append(problem)
    return problems


def _path(loc: tuple[int | str, ...]) -> tuple[KeyPath, bool]:
    # pydantic marks a problem with a map's key, rather than with its value, by a last part "[key]".
    in_key = bool(loc) and loc[-1] == "[key]"
    return tuple(str(part) for part in (loc[:-1] if in_key else loc)), in_key


def _reason(item: Any, path: KeyPath) -> str:
    # Only our own validators' messages add to the description of the allowed values, and a secret's could repeat it.
    error = item.get("ctx", {}).get("error")
    shown = isinstance(error, UnknownOptionError) or (isinstance(error, ValueError) and path not in _SECRETS)
    return f": {error}" if shown else ""

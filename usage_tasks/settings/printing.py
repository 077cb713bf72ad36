"""Settings as the configuration file that has them, without passwords."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final, get_args

from usage_tasks.domain.durations import format_duration
from usage_tasks.settings.environment import list_fields
from usage_tasks.settings.model import Settings
from usage_tasks.settings.tree import KeyPath

_INDENT: Final = "  "
_PARAMETERS: Final = re.compile(r"\?(?P<all>[A-Za-z_]+=[^&@]*(?:&[A-Za-z_]+=[^&@]*)*)$")
_PASSWORD: Final = re.compile(r"[A-Za-z_]*password=[^&]*", re.IGNORECASE)
# Greedy up to the last @: a password may itself hold an @ or a slash that nobody has escaped.
_USER: Final = re.compile(r"^(?P<scheme>[^:]+://)(?P<user>[^:@/]*).*(?P<at>@)", re.DOTALL)
_NO_PORT: Final = re.compile(r"^(?P<host>[^:]+://(?:\[[^\]@/]*\]|[^\[:@/]*)):(?![0-9]+(?:[,/]|$)).*$", re.DOTALL)


def print_settings(settings: Settings) -> str:
    """Return the JSON text of a configuration file that has these settings: every key that has a value.

    Passwords are left out of URLs: `DATABASE_URL` and `REDIS_URL` give them.
    """
    values = settings.model_dump(by_alias=True)
    place = {"address": settings.redis.address} if settings.redis.address else {"url": settings.redis_url}
    values["redis"] = place | {"prefix": settings.redis.prefix}
    off = {path for path, field in list_fields() if timedelta in get_args(field.annotation)}
    return "".join(_render(_to_file(values, (), off), "\n")) + "\n"


def without_password(url: str) -> str:
    """Return a URL without its password; the user stays."""
    parameters = _PARAMETERS.search(url)
    place = url[: parameters.start()] if parameters else url
    place = _USER.sub(lambda found: found["scheme"] + (found["user"] and found["user"] + "@"), place)
    place = _NO_PORT.sub(r"\g<host>", place)
    kept = [each for each in parameters["all"].split("&") if not _PASSWORD.fullmatch(each)] if parameters else []
    return f"{place}?{'&'.join(kept)}" if kept else place


def _to_file(value: object, path: KeyPath, off: set[KeyPath]) -> object:
    """Return a value as the file spells it. A key without a value is left out; a schedule that is off is empty text."""
    if isinstance(value, Mapping):
        children = {key: _to_file(child, (*path, key), off) for key, child in value.items()}
        return {key: child for key, child in children.items() if child is not None and child != {}}
    if isinstance(value, timedelta):
        return format_duration(value)
    if value is None and path in off:
        return ""
    return without_password(value) if isinstance(value, str) and "://" in value else value


def _render(value: object, line: str) -> Iterator[str]:
    """Write JSON; a decimal as the number that it is, which the json module would make a float or a text."""
    if isinstance(value, Mapping) and value:
        inner = line + _INDENT
        for number, (key, child) in enumerate(value.items()):
            yield f"{',' if number else '{'}{inner}{json.dumps(key, ensure_ascii=False)}: "
            yield from _render(child, inner)
        yield line + "}"
    elif isinstance(value, Decimal):
        yield f"{value:f}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield json.dumps([*value], ensure_ascii=False)
    else:
        yield json.dumps(value, ensure_ascii=False)

"""Page of the settings: the keys of the configuration file and the environment variables."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tests.docs.reference.shapes import cell
from usage_tasks.domain.durations import format_duration
from usage_tasks.settings.environment import CONVENTIONAL_VARIABLES, list_fields, variable_name
from usage_tasks.settings.meanings import KEYS, VARIABLES

_HEAD: Final = """\
# Settings

Every key of the configuration file, and every environment variable. `USAGE_CONFIG` names the file, a JSON object; each
key has a variable that overrides it. `usage-tasks settings` checks what is in force and prints it without passwords.

Durations are written as Go writes them: `90s`, `1h30m`, `24h`. An empty text switches a job or a bound off.

The variable of an entry of a map is the variable of the map, `__` and the name of the entry:
`USAGE_STRIPE_PRICES__TEAM_USAGE_PRICE_IDS__EUR`. The variable of an object holds JSON and replaces the whole object.

All mistakes are one error with exit code 2; it names the file, the key, the value and what is allowed. A variable with
the prefix `USAGE_` that no key has is only a warning.

## Keys
| key | meaning | allowed | default | variable |
|---|---|---|---|---|
"""


def render() -> str:
    """Return the page."""
    conventional = {path: name for name, path in CONVENTIONAL_VARIABLES.items()}
    rows = []
    for path, field in list_fields():
        variables = [variable_name(path), *([conventional[path]] if path in conventional else [])]
        names = ", ".join(f"`{each}`" for each in variables)
        allowed = cell(str(field.description))
        rows.append(f"| `{'.'.join(path)}` | {cell(KEYS[path])} | {allowed} | {_default(field)} | {names} |\n")
    others = "".join(f"| `{name}` | {cell(meaning)} |\n" for name, meaning in VARIABLES.items())
    return _HEAD + "".join(rows) + "\n## Other variables\n| variable | meaning |\n|---|---|\n" + others


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if value is None:
        return "off" if "off" in str(field.description) else "none"
    return f"`{_spelled(value)}`"


def _spelled(value: Any) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps([*value] if isinstance(value, tuple) else value)

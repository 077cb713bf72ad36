"""The parameters of a request: a small description language, and the check that refuses everything else.

A described form becomes plain Python: text, int, bool, Decimal, list and dict. An empty string is Stripe's way to
unset a value and becomes None if the description allows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

from usage_tasks.stripe_simulator.wire.errors import ApiError, missing_parameter, unknown_parameter
from usage_tasks.stripe_simulator.wire.wire import EXACT, Form, JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """One parameter: what kind of value, whether it must be there, and which values it may take."""

    kind: str
    required: bool = False
    one_of: frozenset[str] = frozenset()
    limit: int = 5000
    fields: Mapping[str, "Param"] | None = None
    items: "Param | None" = None


Spec = Mapping[str, Param]


def text(*one_of: str, required: bool = False, limit: int = 5000) -> Param:
    return Param(kind="text", required=required, one_of=frozenset(one_of), limit=limit)


def integer(*, required: bool = False) -> Param:
    return Param(kind="integer", required=required)


def boolean(*, required: bool = False) -> Param:
    return Param(kind="boolean", required=required)


def decimal() -> Param:
    return Param(kind="decimal")


def record(fields: Spec, *, required: bool = False) -> Param:
    return Param(kind="record", required=required, fields=fields)


def listing(items: Param, *, required: bool = False) -> Param:
    return Param(kind="list", required=required, items=items)


def mapping(*, required: bool = False, keys: int = 40) -> Param:
    """Free keys of limited length with text values, as metadata and the payload of a meter event are."""
    return Param(kind="mapping", required=required, limit=keys)


def moment() -> Param:
    """A filter on a time: one Unix time, or bounds by gt, gte, lt and lte."""
    return Param(kind="moment", fields={bound: integer() for bound in ("gt", "gte", "lt", "lte")})


EXPAND: Spec = {"expand": listing(text())}
PAGE: Spec = {**EXPAND, "limit": integer(), "starting_after": text(), "ending_before": text()}
INTEGER_DIGITS_MAX = 15
DECIMAL_MAX = Decimal(10**15)
DECIMAL_PLACES_MAX = 12
METADATA_KEYS_MAX = 50
METADATA_VALUE_MAX = 500
_BOOLEANS = {"true": True, "false": False}


def read(form: Form, spec: Spec, *, prefix: str = "") -> JsonObject:
    """Check a form against its description; raise ApiError 400 that names the first parameter at fault."""
    for name in form:
        if name not in spec:
            raise unknown_parameter(_path(prefix, name))
    values: JsonObject = {}
    for name, param in spec.items():
        path = _path(prefix, name)
        if name in form:
            values[name] = _value(form[name], param, path)
        elif param.required:
            raise missing_parameter(path)
    return values


def _path(prefix: str, name: str) -> str:
    return f"{prefix}[{name}]" if prefix else name


def _value(raw: Form | str, param: Param, path: str) -> Any:
    if isinstance(raw, str):
        return _scalar(raw, param, path)
    match param.kind:
        case "record" | "moment":
            return read(raw, param.fields or {}, prefix=path)
        case "mapping":
            return _mapping(raw, param, path)
        case "list" if param.items is not None and all(key.isdecimal() for key in raw):
            ordered = sorted(raw, key=int)
            return [_value(raw[key], param.items, _path(path, key)) for key in ordered]
    raise ApiError(f"Invalid {param.kind}: an object", param=path)


def _mapping(raw: Form, param: Param, path: str) -> dict[str, str]:
    if len(raw) > METADATA_KEYS_MAX:
        raise ApiError(f"At most {METADATA_KEYS_MAX} keys are allowed.", param=path)
    for key in raw:
        if len(key) > param.limit:
            raise ApiError(f"Keys can have up to {param.limit} characters: {key}", param=path)
    values = text(limit=METADATA_VALUE_MAX)
    return {key: _scalar(value, values, _path(path, key)) or "" for key, value in raw.items()}


def _scalar(raw: Form | str, param: Param, path: str) -> Any:
    if not isinstance(raw, str):
        raise ApiError("Invalid string: an object", param=path)
    if raw == "":
        if param.required:
            message = f"An empty string unsets a parameter, but '{path}' is required."
            raise ApiError(message, code="parameter_invalid_empty", param=path)
        return None
    match param.kind:
        case "text":
            return _text(raw, param, path)
        case "integer" | "moment":
            return _integer(raw, path)
        case "boolean" if raw in _BOOLEANS:
            return _BOOLEANS[raw]
        case "decimal":
            return _decimal(raw, path)
    code = "parameter_invalid_boolean" if param.kind == "boolean" else None
    raise ApiError(f"Invalid {param.kind}: {raw}", code=code, param=path)


def _text(raw: str, param: Param, path: str) -> str:
    if param.one_of and raw not in param.one_of:
        allowed = ", ".join(sorted(param.one_of))
        raise ApiError(f"Invalid {path}: must be one of {allowed}", param=path)
    if len(raw) > param.limit:
        message = f"Invalid string: must be at most {param.limit} characters"
        raise ApiError(message, code="parameter_invalid_string_length", param=path)
    return raw


def _integer(raw: str, path: str) -> int:
    if not raw.removeprefix("-").isdecimal() or len(raw) > INTEGER_DIGITS_MAX:
        raise ApiError(f"Invalid integer: {raw}", code="parameter_invalid_integer", param=path)
    return int(raw)


def _decimal(raw: str, path: str) -> Decimal:
    try:
        value = Decimal(raw)
    except InvalidOperation as error:
        raise ApiError(f"Invalid decimal: {raw}", param=path) from error
    if not within_bounds(value):
        raise ApiError(f"Invalid decimal: {raw}", param=path)
    return value


def within_bounds(value: Decimal) -> bool:
    """Whether a decimal is of a size that Stripe counts with: 15 digits before the point and 12 behind it."""
    if not value.is_finite() or abs(value) >= DECIMAL_MAX:
        return False
    with localcontext(EXACT):
        return value == value.quantize(Decimal(1).scaleb(-DECIMAL_PLACES_MAX))

"""The SDK's own classes as a judge of thin events: the official description cut for the tests has no second version."""

import types
import typing
from typing import Any

from stripe import StripeObject
from stripe.events._event_classes import get_v2_event_class

Json = dict[str, Any]


def check_event(event: Json, *, notification: bool = False) -> None:
    """Hold an event against the SDK's class for it; `notification`: as it is sent, without its data."""
    kind = get_v2_event_class(event["type"])
    fields = _fields(kind)
    if notification:
        assert "data" not in event
        del fields["data"]
    _check_fields(event, fields, path=kind.__name__)


def _fields(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, StripeObject) and base is not StripeObject:
            found |= {name: hint for name, hint in vars(base).get("__annotations__", {}).items() if name.islower()}
    return {name: hint for name, hint in found.items() if not name.startswith("_")}


def _check_fields(value: Json, fields: dict[str, Any], *, path: str) -> None:
    assert value.keys() <= fields.keys(), f"{path} has no {value.keys() - fields.keys()}"
    for name, hint in fields.items():
        assert name in value or _is_optional(hint), f"{path}.{name} is missing"
        if value.get(name) is not None:
            _check(value[name], hint, path=f"{path}.{name}")
        else:
            assert _is_optional(hint), f"{path}.{name} is null"


def _check(value: Any, hint: Any, *, path: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        _check(value, next(one for one in reversed(arguments) if one is not type(None)), path=path)
    elif origin is list:
        for one in value:
            _check(one, arguments[0], path=path)
    elif origin is typing.Literal:
        assert value in arguments, path
    elif isinstance(hint, type) and issubclass(hint, StripeObject):
        _check_fields(value, _fields(hint), path=path)
    else:
        assert type(value) is hint, path


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)

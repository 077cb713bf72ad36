"""Words for a value that pydantic refuses: what it must be, and what came."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from usage_tasks.domain.errors import show

_INSTANT: Final = "an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z"
_MISSING: Final = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})
_MUST_BE: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "bool_type": lambda _: "true or false",
    "dict_type": lambda _: "an object",
    "enum": lambda context: f"{context['expected']}",
    "greater_than": lambda context: f"above {context['gt']}",
    "greater_than_equal": lambda context: f"at least {context['ge']}",
    "int_from_float": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_type": lambda _: "a whole number",
    "less_than": lambda context: f"below {context['lt']}",
    "less_than_equal": lambda context: f"at most {context['le']}",
    "list_type": lambda _: "a list",
    "literal_error": lambda context: f"{context['expected']}",
    "model_type": lambda _: "an object",
    "string_pattern_mismatch": lambda context: f"text of the form {context['pattern']}",
    "string_too_long": lambda context: f"at most {_count(context['max_length'], 'character')}",
    "string_too_short": lambda context: f"at least {_count(context['min_length'], 'character')}",
    "string_type": lambda _: "text",
    "string_unicode": lambda _: "text in Unicode",
    "too_long": lambda context: f"at most {_count(context['max_length'], 'item')}",
    "too_short": lambda context: f"at least {_count(context['min_length'], 'item')}",
    "timezone_aware": lambda _: _INSTANT,
}
"""By pydantic's type of an error, with its context, the words that complete "must be"."""

_CHOICES: Final = frozenset({"literal_error", "enum", "timezone_aware"})
"""Errors of values that are no secrets, so the value may be shown even where text is hidden."""


def describe(problem: Mapping[str, Any], *, hidden: bool = False) -> str:
    """Return the words for an item of `ValidationError.errors()`, such as "must be text (got 7)".

    With `hidden` a text that came is not shown: an argument may hold personal data or a secret.
    """
    kind, message = problem["type"], problem["msg"]
    if kind in {"too_long", "too_short"} and isinstance(problem.get("input"), str):
        kind = f"string_{kind}"  # of a secret text
    if kind in _MISSING:
        return "must be given (got nothing)"
    if kind in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"no such {'argument' if kind == 'unexpected_keyword_argument' else 'field'}"
    if kind == "unexpected_positional_argument":
        return "must be given by name (got an argument without a name)"
    if kind == "value_error" or kind.startswith("usage_"):
        return str(message).removeprefix("Value error, ")
    if kind.startswith("datetime"):
        must_be = _INSTANT
    else:
        word = _MUST_BE.get(kind)
        must_be = f"valid ({message})" if word is None else word(problem.get("ctx", {}))
    return f"must be {must_be} (got {_shown(problem.get('input'), hidden=hidden and kind not in _CHOICES)})"


def _shown(value: object, *, hidden: bool) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "an object"
    if hidden and not isinstance(value, int | float | None):
        return f"text of {_count(len(value), 'character')}" if isinstance(value, str) else "a value that is not shown"
    return show(value)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"

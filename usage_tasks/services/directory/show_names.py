"""Show names beside ids in what is answered: in each object of an answer, and at its top for what was asked about."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import NameKind, subject_of
from usage_tasks.storage.directory.names import NAMELESS, find_names

_BESIDE: Final = {
    "attribution_id": ("account", None),
    "user_id": ("user", NameKind.USER),
    "instance_id": ("session", NameKind.SESSION),
}
"""By the field of an id: the word before its names, and what the id is of; an account's is a subject itself."""

ASKED: Final = tuple(_BESIDE)
"""The fields of ids beside which names are shown."""


class Shown:
    """An answer as JSON has it. `subjects` are those whose ids it has, or was asked about in `asked`."""

    def __init__(self, answer: dict[str, Any], asked: Mapping[str, Any]) -> None:
        self._places = [(answer, _subjects({**asked, **answer}))]
        self._places += [(each, _subjects(each)) for each in _objects([*answer.values()])]
        self.subjects = {subject for _, found in self._places for subject in found.values()}

    def add(self, names: Mapping[str, tuple[str | None, str | None]]) -> None:
        """Write names beside the ids; a missing name has no field."""
        for place, subjects in self._places:
            for word, subject in subjects.items():
                external_id, display_name = names.get(subject, NAMELESS)
                if external_id is not None:
                    place[f"{word}_external_id"] = external_id
                if display_name is not None:
                    place[f"{word}_name"] = display_name


def show_names(connection: Connection, shown: Shown) -> None:
    """Add the names that the directory has."""
    shown.add(find_names(connection, shown.subjects))


def _subjects(place: Mapping[str, Any]) -> Mapping[str, str]:
    return {
        word: place[field] if kind is None else subject_of(kind, place[field])
        for field, (word, kind) in _BESIDE.items()
        if field in place and isinstance(place[field], str)
    }


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """Go through all objects below a value."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)

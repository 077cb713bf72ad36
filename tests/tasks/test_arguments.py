"""The arguments that every task refuses, found by its schema, so that a new task is tested too."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.client.test_client import make_sender, start_worker
from usage_tasks.celery import app
from usage_tasks.domain.errors import show
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS, ArgumentsError

pytestmark = pytest.mark.usefixtures("declared")

Place = tuple[str | int, ...]

NO_FLAGS: Final[tuple[Any, ...]] = (0, 1, 1.0, "off", "no", "false", "true", "", "x" * 5_000, [], {})
NO_INTEGERS: Final[tuple[Any, ...]] = (True, False, "5", "", "x", 5.0, 5.5, [], {})
JSON_TEXT: Final = ("stripe.receive_event", ("payload",))
"""An event as Stripe sent it: text that is not JSON is refused when it is read."""


@pytest.fixture
def declared(rt: Runtime) -> None:
    """Every task: importing its module declares it."""
    del rt
    app.loader.import_default_modules()


def list_arguments(kind: str) -> list[tuple[str, Place]]:
    """Every argument of this type of every task, and every field of one."""
    return [
        (name, place)
        for name, schema in ARGUMENT_SCHEMAS.items()
        for place in _places(schema, kind, schema.get("$defs", {}))
    ]


def _places(schema: Mapping[str, Any], kind: str, defined: Mapping[str, Any], place: Place = ()) -> Iterator[Place]:
    if "$ref" in schema:
        yield from _places(defined[schema["$ref"].rpartition("/")[2]], kind, defined, place)
    for form in schema.get("anyOf", ()):
        yield from _places(form, kind, defined, place)
    if schema.get("type") == kind and place:
        yield place
    for name, field in schema.get("properties", {}).items():
        yield from _places(field, kind, defined, (*place, name))
    if "items" in schema:
        yield from _places(schema["items"], kind, defined, (*place, 0))


def with_value(place: Place, value: object) -> dict[str, Any]:
    """Arguments that hold the value at the place and nothing else."""
    for part in reversed(place):
        value = [value] if part == 0 else {part: value}
    assert isinstance(value, dict)
    return value


def refusal(name: str, arguments: dict[str, Any]) -> str:
    with pytest.raises(ArgumentsError) as refused:
        app.tasks[name].run(**arguments)
    return str(refused.value)


def test_a_refusal_is_short_however_many_arguments_are_wrong_and_however_long_their_names() -> None:
    said = refusal("usage.reconcile", {f"{'x' * 10_000}{number}": 1 for number in range(150)})
    assert len(said) < 30_000
    assert said.endswith("; and 50 more")


def test_every_flag_is_true_or_false_and_nothing_that_looks_like_it() -> None:
    flags = list_arguments("boolean")
    assert len(flags) > 20
    for name, place in flags:
        where = ".".join(map(str, place))
        for value in NO_FLAGS:
            said = refusal(name, with_value(place, value))
            shown = show(value) if isinstance(value, str | int | float) else type(value).__name__
            # Nothing of a person is repeated: a text at a wrong place may be an e-mail.
            hidden = name.startswith("directory.")
            expected = "must be true or false (got " + ("" if hidden else shown)
            assert f"`{where}`: {expected}" in said, (name, said)
            assert not (hidden and isinstance(value, str) and value and f"got {value!r}" in said)
            assert len(said) < 1_000


def test_every_integer_is_a_whole_number_and_nothing_that_looks_like_it() -> None:
    numbers = list_arguments("integer")
    assert len(numbers) >= 9
    for name, place in numbers:
        where = ".".join(map(str, place))
        for value in NO_INTEGERS:
            said = refusal(name, with_value(place, value))
            assert f"`{where}`: must be a whole number (got " in said, (name, said)


def test_no_argument_is_a_float() -> None:
    assert list_arguments("number") == []


def test_no_text_holds_a_character_that_postgresql_can_not_store() -> None:
    # A report is read on its own: a bad one goes to quarantine, and does not refuse the message.
    texts = [each for each in list_arguments("string") if "instances" not in each[1] and each != JSON_TEXT]
    assert len(texts) > 100
    for name, place in texts:
        for value in ("\x00", "a\x00b", "\ud800"):
            where = ".".join(map(str, place))
            assert f"`{where}`: must be " in refusal(name, with_value(place, value)), (name, where)


@pytest.mark.parametrize("argument", ["self", "cls", "args", "kwargs", "task", "request", ""])
def test_an_argument_of_any_name_is_unknown_rather_than_an_error_of_ours(argument: str) -> None:
    for name in ARGUMENT_SCHEMAS:
        assert f"`{argument or 'arguments'}`: no such argument" in refusal(name, {argument: 1})


@pytest.mark.timeout(60)
def test_a_worker_answers_an_argument_named_self_with_the_refusal(
    environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    with ExitStack() as workers:
        start_worker(workers, environment, tmp_path, 1)
        wrong = {"self": 1, "dry_run": "off"}
        asked = make_sender(redis_url).send_task("usage.reset", kwargs=wrong, queue="usage")
        with pytest.raises(Exception, match="`dry_run`: must be true or false") as refused:
            asked.get(timeout=30)
    assert "`self`: no such argument" in str(refused.value)

"""Every error for a caller has one form: "`field`: must be ... (got ...)", or "`field`: no such ...".

The first walk calls every task with bad values. The second reads every `raise` of the package: a message that no test
happens to cause is in the form too.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import usage_tasks
from tests.tasks.test_arguments import JSON_TEXT, list_arguments, refusal, with_value
from usage_tasks.celery import app
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS

PACKAGE: Final = Path(usage_tasks.__file__).parent
FORM: Final = re.compile(r"`[^`]+`: (?:must be .+ \(got .+\)|no such [a-z ]+)", re.DOTALL)
REASON: Final = re.compile(r"must be .+ \(got .+\)", re.DOTALL)
BAD_VALUES: Final[dict[str, tuple[object, ...]]] = {
    "string": (7, None, [], {}, "", "x" * 5_000, "\x00", "\ud800"),
    "integer": ("x", 1.5, -(10**30), 10**30, True, [], {}),
    "boolean": ("yes", 2, [], {}),
    "array": ("x", {}, 7),
}
NAMELESS: Final = frozenset({"ValueError", "TypeError"})
CALLERS: Final = frozenset({"InvalidInputError", "NoSuchError"})
SUBJECT: Final = re.compile(r"^[^:]+: \S")
"""Other errors name their subject before a colon, such as "database: ..." or "credit note cn_1: ..."."""
SUBJECTED: Final = frozenset({"PermanentError", "NotFoundError", "RetryableError", "InvariantError", "ArgumentsError"})


@pytest.fixture
def declared(rt: Runtime) -> None:
    del rt
    app.loader.import_default_modules()


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize("kind", list(BAD_VALUES))
def test_every_argument_of_every_task_is_refused_in_the_form(kind: str) -> None:
    places = [each for each in list_arguments(kind) if "instances" not in each[1] and each != JSON_TEXT]
    assert len(places) > 5
    for name, place in places:
        for value in BAD_VALUES[kind]:
            for problem in re.split(r"; (?=`)", refusal(name, with_value(place, value) | {"colour": 1})):
                assert FORM.fullmatch(problem), (name, place, value, problem)
                assert len(problem) < 400


@pytest.mark.usefixtures("declared")
def test_a_missing_and_an_unknown_argument_are_named_in_the_form() -> None:
    for name, schema in ARGUMENT_SCHEMAS.items():
        said = refusal(name, {"colour": 1})
        assert "`colour`: no such argument" in said
        for needed in schema.get("required", ()):
            assert f"`{needed}`: must be given (got nothing)" in said


def list_raises() -> Iterator[tuple[str, str, list[str | None]]]:
    """Each `raise Error(...)` of the package: its place, the error, its arguments as text, a hole being `x`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "stripe_simulator" in path.parts:  # its words are Stripe's
            continue
        tree = ast.parse(path.read_text())
        texts = {
            target.id: _text(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Raise)
                and isinstance(node.exc, ast.Call)
                and isinstance(node.exc.func, ast.Name | ast.Attribute)
            ):
                called = node.exc.func
                arguments = [
                    texts.get(each.id) if isinstance(each, ast.Name) else _text(each) for each in node.exc.args
                ]
                yield (
                    f"{path.relative_to(PACKAGE)}:{node.lineno}",
                    called.id if isinstance(called, ast.Name) else called.attr,
                    arguments,
                )


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return None


def find_fault(error: str, arguments: list[str | None]) -> str | None:
    """Return the message of a `raise` that is not in the form, or None."""
    if error in CALLERS:
        allowed: Any = arguments[2] if len(arguments) > 2 else None
        wrong = allowed is not None and re.match(r"(?i)(must|is|not|no) ", allowed + " ")
        return allowed if wrong else None
    message = arguments[0] if arguments else None
    if message is None:
        return None
    if error in SUBJECTED:
        return None if SUBJECT.match(message) and "not allowed" not in message else message
    if error == "BadParameter" and "allowed" in message:
        return message
    if error in NAMELESS and ("must be" in message or "allowed" in message):
        return None if REASON.search(message) else message
    return None


def test_every_error_that_the_package_raises_is_in_the_form() -> None:
    raised = list(list_raises())
    assert len([each for each in raised if each[1] in CALLERS]) > 50
    faults = [(place, found) for place, error, arguments in raised if (found := find_fault(error, arguments))]
    assert not faults, faults


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        ("InvalidInputError", ["page", None, "must be 0 or more"]),
        ("InvalidInputError", ["page", None, "is 0 or more"]),
        ("PermanentError", ["it did not work"]),
        ("PermanentError", ["dispute: status 'x' is not allowed: won, lost"]),
        ("BadParameter", ["'x' is not allowed: a UUID"]),
        ("ValueError", ["a UUID is allowed"]),
        ("ValueError", ["must be a UUID"]),
    ],
)
def test_an_error_in_another_form_is_found(error: str, arguments: list[str | None]) -> None:
    assert find_fault(error, arguments) is not None

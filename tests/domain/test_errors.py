import pickle
from datetime import timedelta
from typing import Any

import pytest

from usage_tasks.domain.errors import (
    DeclinedError,
    InvalidInputError,
    InvariantError,
    NoSuchError,
    NotAdmittedError,
    PermanentError,
    RetryableError,
    StaleVersionError,
    UsageError,
)


def test_a_refusal_names_the_field_the_value_and_what_is_allowed() -> None:
    error = InvalidInputError("page", "two", "0 or more")
    assert str(error) == "`page`: must be 0 or more (got 'two')"
    assert (error.field, error.value, error.allowed) == ("page", "two", "0 or more")


def test_a_long_value_is_cut_at_80_characters() -> None:
    assert str(InvalidInputError("page", "x" * 500, "short")) == f"`page`: must be short (got '{'x' * 79}...)"


def test_an_object_that_does_not_exist_is_no_such_object() -> None:
    error = NoSuchError("instance_id", "i-1", "session")
    assert str(error) == "`instance_id`: no such session (got 'i-1')"
    assert isinstance(error, InvalidInputError)


@pytest.mark.parametrize("kind", [InvalidInputError, NoSuchError])
def test_a_refusal_survives_the_way_from_a_child_to_its_worker(kind: type[InvalidInputError]) -> None:
    error = kind("page", -1, "0 or more")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is kind
    assert (str(copy), copy.field, copy.value, copy.allowed) == (str(error), "page", -1, "0 or more")


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        (RetryableError, {}, {"retry_after": None}),
        (RetryableError, {"retry_after": timedelta(seconds=41)}, {"retry_after": timedelta(seconds=41)}),
        (NotAdmittedError, {}, {"retry_after": None, "busy": False}),
        (
            NotAdmittedError,
            {"retry_after": timedelta(seconds=2), "busy": True},
            {"retry_after": timedelta(seconds=2), "busy": True},
        ),
        (DeclinedError, {}, {"decline_code": None}),
        (DeclinedError, {"decline_code": "insufficient_funds"}, {"decline_code": "insufficient_funds"}),
    ],
)
def test_what_a_failure_says_beside_its_words_goes_with_it(
    kind: type[UsageError], fields: dict[str, Any], told: dict[str, object]
) -> None:
    error = kind("busy", **fields)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    for each in (error, copy):
        assert (str(each), vars(each)) == ("busy", told)


@pytest.mark.parametrize("kind", [InvalidInputError, StaleVersionError])
def test_input_that_can_never_succeed_is_parked_and_not_retried(kind: type[UsageError]) -> None:
    assert issubclass(kind, PermanentError)
    assert not issubclass(kind, RetryableError)


def test_the_three_kinds_of_failure_are_told_apart() -> None:
    kinds = (RetryableError, PermanentError, InvariantError)
    assert all(issubclass(kind, UsageError) for kind in kinds)
    assert not any(issubclass(one, other) for one in kinds for other in kinds if one is not other)

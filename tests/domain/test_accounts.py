import pickle

import pytest

from usage_tasks.domain.accounts import AccountKind, parse_actor, parse_attribution
from usage_tasks.domain.errors import InvalidInputError

UUID_TEXT = "0f7c9e3a-2b1d-4c5e-8f6a-123456789abc"

NO_ATTRIBUTIONS = [
    "",
    ":",
    "team",
    "team:",
    f"{UUID_TEXT}",
    f":{UUID_TEXT}",
    f"team:{UUID_TEXT}:x",
    f"team:x:{UUID_TEXT}",
    f"org:{UUID_TEXT}",
    f"Team:{UUID_TEXT}",
    f" team:{UUID_TEXT}",
    f"team: {UUID_TEXT}",
    f"team:{UUID_TEXT}\n",
    "team:nobody",
    f"team:{UUID_TEXT.replace('-', '')}",
    f"team:{{{UUID_TEXT}}}",
    f"team:urn:uuid:{UUID_TEXT}",
    f"team:{UUID_TEXT[:-1]}",
]
NO_ACTORS = [
    "",
    "tests",
    "service:",
    "service:" + "x" * 65,
    "service:a\nb",
    "service:a\x00",
    f"team:{UUID_TEXT}",
    "user:",
    "user:ann",
    f"user:{UUID_TEXT.replace('-', '')}",
]


@pytest.mark.parametrize("kind", list(AccountKind))
def test_an_attribution_is_a_kind_and_a_uuid(kind: AccountKind) -> None:
    account = parse_attribution(f"{kind}:{UUID_TEXT}")
    assert account.kind is kind
    assert str(account.entity_id) == UUID_TEXT


def test_an_attribution_has_one_spelling() -> None:
    assert parse_attribution(f"team:{UUID_TEXT.upper()}").attribution_id == f"team:{UUID_TEXT}"


@pytest.mark.parametrize("text", NO_ATTRIBUTIONS)
def test_anything_else_is_refused_with_a_message_that_names_it(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_attribution(text)
    assert refused.value.field == "attribution_id"
    assert str(refused.value) == f"attribution_id: {text!r} is not allowed: team:<uuid> or user:<uuid>"


@pytest.mark.parametrize("text", [f"user:{UUID_TEXT}", "service:x", "service:" + "x" * 64, "service:usage.reset"])
def test_an_actor_is_a_user_or_a_service(text: str) -> None:
    assert parse_actor(text) == text


@pytest.mark.parametrize("text", NO_ACTORS)
def test_any_other_actor_is_refused_with_a_message_that_names_it(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_actor(text)
    assert str(refused.value) == f"actor: {text!r} is not allowed: user:<uuid> or service:<name>"


def test_a_refusal_survives_the_way_from_a_child_to_its_worker() -> None:
    error = InvalidInputError("page", -1, "0 or more")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert isinstance(copy, InvalidInputError)
    assert (str(copy), copy.field, copy.value, copy.allowed) == (str(error), "page", -1, "0 or more")

import re

import pytest

from usage_tasks.domain.accounts import AccountKind, parse_actor, parse_attribution, parse_uuid
from usage_tasks.domain.errors import InvalidInputError, show

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
    f"user:x:{UUID_TEXT}",
]


@pytest.mark.holds("usage.attribution")
@pytest.mark.parametrize("kind", list(AccountKind))
def test_an_attribution_is_a_kind_and_a_uuid(kind: AccountKind) -> None:
    account = parse_attribution(f"{kind}:{UUID_TEXT}")
    assert account.kind is kind
    assert str(account.entity_id) == UUID_TEXT


def test_an_attribution_has_one_spelling() -> None:
    assert parse_attribution(f"team:{UUID_TEXT.upper()}").attribution_id == f"team:{UUID_TEXT}"


@pytest.mark.holds("usage.attribution")
@pytest.mark.parametrize("text", NO_ATTRIBUTIONS)
def test_anything_else_is_refused_with_a_message_that_names_it(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_attribution(text)
    assert refused.value.field == "attribution_id"
    assert str(refused.value) == f"`attribution_id`: must be team:<uuid> or user:<uuid> (got {text!r})"


def test_a_refusal_names_the_argument_that_the_attribution_came_in() -> None:
    with pytest.raises(InvalidInputError, match=r"^`customer`: must be .* \(got 'team'\)$"):
        parse_attribution("team", field="customer")


@pytest.mark.parametrize("text", [UUID_TEXT.replace("-", ""), f"{{{UUID_TEXT}}}", f"urn:uuid:{UUID_TEXT}"])
def test_a_uuid_in_another_spelling_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_uuid(text)


@pytest.mark.parametrize(
    "text", [f"user:{UUID_TEXT}", "service:x", "service:" + "x" * 64, "service:usage.reset", "service:a:b"]
)
def test_an_actor_is_a_user_or_a_service(text: str) -> None:
    assert parse_actor(text) == text


@pytest.mark.parametrize("text", NO_ACTORS)
def test_any_other_actor_is_refused_with_a_message_that_names_it(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_actor(text)
    assert str(refused.value) == f"`actor`: must be user:<uuid> or service:<name> (got {show(text)})"

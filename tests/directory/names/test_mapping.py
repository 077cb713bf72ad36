"""Any printable id stands for one UUID, in its kind; a UUID is itself; what could be taken for another is refused."""

import unicodedata
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from usage_tasks.domain.accounts import ExternalId, NameKind, parse_id, resolve
from usage_tasks.wire.values import ActorText, Attribution, SessionId, UserId

NAMESPACE = UUID("5c1d2a52-6c86-4f6e-9f0e-0b8a7cf3d001")
PRINTABLE = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=200).filter(
    lambda text: text.isprintable() and text == text.strip() and unicodedata.is_normalized("NFC", text)
)
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
EXTERNAL_IDS = PRINTABLE.filter(lambda text: sum(each in HEX_DIGITS for each in text) != 32)
TYPES = {
    "session:": TypeAdapter[str](SessionId),
    "user:": TypeAdapter[str](UserId),
    "team:": TypeAdapter[str](Attribution),
}


def read(kind: NameKind, text: str) -> str:
    return resolve(parse_id(text, kind), lambda: NAMESPACE)


@pytest.mark.holds("names.mapping")
@given(EXTERNAL_IDS, st.sampled_from(NameKind))
def test_an_external_id_is_the_uuid5_of_its_kind_and_itself(external_id: str, kind: NameKind) -> None:
    assert read(kind, external_id) == str(uuid5(NAMESPACE, f"{kind.value}:{external_id}"))
    assert isinstance(parse_id(external_id, kind), ExternalId)


@pytest.mark.holds("names.mapping")
@given(st.sets(EXTERNAL_IDS, min_size=2, max_size=20))
def test_different_ids_and_kinds_are_different_uuids(external_ids: set[str]) -> None:
    assert len({read(kind, each) for kind in NameKind for each in external_ids}) == 3 * len(external_ids)


@pytest.mark.holds("names.mapping")
@given(st.uuids(), st.sampled_from(NameKind), st.lists(st.booleans(), min_size=36, max_size=36))
def test_a_uuid_is_itself_in_any_case(uuid: UUID, kind: NameKind, raised: list[bool]) -> None:
    mixed = "".join(each.upper() if up else each for each, up in zip(str(uuid), raised, strict=True))
    assert read(kind, mixed) == str(uuid)


@pytest.mark.holds("names.refused")
@given(st.uuids(), st.sampled_from(NameKind))
def test_a_uuid_in_another_spelling_is_refused(uuid: UUID, kind: NameKind) -> None:
    spellings = [uuid.hex, uuid.hex.upper(), f"{{{uuid}}}", uuid.urn, f"({uuid})", f"{uuid.hex[:3]}-{uuid.hex[3:]}"]
    for spelling in spellings:
        with pytest.raises(ValueError, match="or an id that does not look like one"):
            parse_id(spelling, kind)


@pytest.mark.holds("names.refused")
@pytest.mark.parametrize(
    "text",
    ["", " ", " a", "a ", "a\tb", "a\n", "a\x00", "a\u200b", "a\u00a0b", "\ud800", "e\u0301", "x" * 201, "\u2028"],
    ids=ascii,
)
def test_what_may_be_taken_for_another_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="of 1 to 200 printable characters, in Unicode's form NFC, without a space"):
        parse_id(text, NameKind.TEAM)


@pytest.mark.holds("names.refused")
@pytest.mark.parametrize("text", ["acme", "ACME", "acme:eu", "a b", "42", "\u00e9", "x" * 200, "a/b?c", "-"])
def test_these_are_ids(text: str) -> None:
    assert parse_id(text, NameKind.TEAM) == text


@pytest.mark.holds("names.mapping")
def test_an_account_and_an_actor_have_their_prefix_and_a_user_is_the_same_in_both() -> None:
    for adapter in (TypeAdapter[str](Attribution), TypeAdapter[str](ActorText)):
        read_text = adapter.validate_python("user:ann:eu")
        assert resolve(read_text, lambda: NAMESPACE) == f"user:{uuid5(NAMESPACE, 'user:ann:eu')}"
    own = resolve(TypeAdapter[str](UserId).validate_python("ann:eu"), lambda: NAMESPACE)
    assert own == str(uuid5(NAMESPACE, "user:ann:eu"))
    team = resolve(TypeAdapter[str](Attribution).validate_python("team:user:x"), lambda: NAMESPACE)
    assert team == f"team:{uuid5(NAMESPACE, 'team:user:x')}"
    assert TypeAdapter[str](ActorText).validate_python("service:ann") == "service:ann"


@pytest.mark.holds("names.refused")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("acme", "must be team:<id> or user:<id> (got 'acme')"),
        ("Team:acme", "must be team:<id> or user:<id> (got 'Team:acme')"),
        ("team:", "must be team:<id>, with an id that is a UUID such as"),
        ("team: acme", "without a space at either end (got 'team: acme')"),
        ("user:" + "0" * 32, "or an id that does not look like one (got 'user:000"),
    ],
)
def test_a_refusal_names_what_must_be(text: str, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter[str](Attribution).validate_python(text)
    assert words in refused.value.errors()[0]["msg"]

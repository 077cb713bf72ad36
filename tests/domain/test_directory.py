from dataclasses import replace
from datetime import timedelta
from itertools import permutations

import pytest

from tests.factories import START, make_id
from usage_tasks.domain.access import TeamRole
from usage_tasks.domain.directory import (
    EmailDigest,
    Member,
    TeamReport,
    UserReport,
    digest_email,
    latest_teams,
    latest_users,
    normalise_email,
)

KEY = b"a key for tests only, 32 characters"
USER = UserReport(
    user_id=make_id("ann"), email_digest=EmailDigest("a" * 64), administrator=True, deleted=False, observed_at=START
)
TEAM = TeamReport(
    team_id=make_id("team"),
    creator_user_id=None,
    members=[Member(user_id=make_id(name), role=TeamRole.MEMBER) for name in ("ann", "bob")],
    observed_at=START,
)


@pytest.mark.holds("people.one-address")
@pytest.mark.parametrize(
    "spelling",
    [
        " ann@example.com ",
        "ANN@Example.COM",
        "\uff21nn@example.com",  # a full-width A
        "ann@example.com.",
    ],
)
def test_spellings_of_one_address_are_one(spelling: str) -> None:
    assert normalise_email(spelling) == "ann@example.com"


@pytest.mark.holds("people.one-address")
def test_unicode_forms_and_idna_of_one_address_are_one() -> None:
    composed, decomposed = "jos\u00e9@m\u00fcller.example", "jose\u0301@mu\u0308ller.example"
    assert composed != decomposed
    assert (
        normalise_email(composed) == normalise_email(decomposed) == normalise_email("JOS\u00c9@xn--mller-kva.example")
    )
    assert normalise_email("strasse@example.com") == normalise_email("stra\u00dfe@example.com")


@pytest.mark.holds("people.one-address")
def test_different_addresses_stay_different() -> None:
    spellings = ["ann@example.com", "ann+x@example.com", "a.nn@example.com", "ann@example.org", "ann@a..b", "ann@a.b"]
    assert len({normalise_email(each) for each in spellings}) == len(spellings)


def test_a_digest_depends_on_the_key_and_shows_nothing_of_the_address() -> None:
    digest = digest_email("ann@example.com", KEY)
    # The construction, once by hand: printf 'usage-tasks e-mail 1\0ann@example.com' | openssl dgst -sha256 -hmac "$KEY"
    assert digest == "34570eb987b64a3470e7dbcafff144a2e0c31ae427927cb92ea5708bf61f829d"
    assert digest == digest_email("Ann@example.com", KEY)
    assert digest != digest_email("ann@example.com", KEY + b"x")
    assert digest != digest_email("bob@example.com", KEY)


@pytest.mark.holds("people.latest-report")
def test_the_latest_report_holds_and_at_one_instant_the_one_that_allows_less() -> None:
    reports = [
        USER,
        replace(USER, administrator=False),
        replace(USER, administrator=False, email_digest=EmailDigest("b" * 64)),
        replace(USER, deleted=True, email_digest=None),
        replace(USER, observed_at=START - timedelta(microseconds=1), deleted=True),
    ]
    for order in permutations(reports):
        assert latest_users(order) == [reports[3]]
    later = replace(USER, observed_at=START + timedelta(microseconds=1))
    assert latest_users([*reports, later]) == [later]


def test_a_team_is_the_same_whatever_the_order_of_its_members() -> None:
    assert replace(TEAM, members=list(reversed(TEAM.members))).digest == TEAM.digest
    others = [
        replace(TEAM, members=TEAM.members[:1]),
        replace(TEAM, creator_user_id=make_id("ann")),
        replace(TEAM, members=[replace(TEAM.members[0], role=TeamRole.OWNER), TEAM.members[1]]),
    ]
    assert len({each.digest for each in [TEAM, *others]}) == 4
    held = {latest_teams(order)[0].digest for order in permutations([TEAM, *others])}
    assert len(held) == 1

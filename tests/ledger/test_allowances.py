"""The free allowance, once per user. LIMITS: 500 for teams, 100 for users: the 100 is given once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.directory.test_update_directory import team_report, tell, user_report
from tests.factories import DAY, HOUR, START, SYSTEM, make_id, record, session_report, team, user
from tests.ledger.test_cost_center import get
from usage_tasks.domain.directory import EmailDigest
from usage_tasks.domain.errors import InvariantError
from usage_tasks.storage.engine import Database

CLAIMS = "SELECT user_id, email_digest, attribution_id, claimed_at, actor FROM allowance_claim ORDER BY attribution_id"
SAME = EmailDigest("5" * 64)
OTHER = EmailDigest("0" * 64)


def limit(connection: Connection, name: str, **fields: Any) -> int:
    return get(connection, team(name), **fields).spending_limit


def claims(connection: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text(CLAIMS))]


def owned(*teams: str, by: str = "ann", **fields: Any) -> list[Any]:
    return [team_report(name, **{by: "owner"}, **fields) for name in teams]


@pytest.mark.holds("cost-center.first-team")
def test_the_first_team_of_a_user_gets_the_allowance_once(connection: Connection) -> None:
    tell(connection, user_report(email_digest=SAME), *owned("first", "second"))
    assert limit(connection, "first") == 100
    assert limit(connection, "second", at=START + DAY) == 500
    assert limit(connection, "first", at=START + DAY) == 100
    assert claims(connection) == [(make_id("ann"), SAME, team("first"), START, SYSTEM)]
    assert get(connection, user("ann")).spending_limit == 100  # a personal account is not an organisation


@pytest.mark.holds("cost-center.first-team")
def test_another_user_of_the_same_email_gets_none(connection: Connection) -> None:
    tell(connection, user_report("ann", email_digest=SAME), user_report("bob", email_digest=SAME))
    tell(connection, *owned("first"), *owned("second", by="bob"))
    assert (limit(connection, "first"), limit(connection, "second")) == (100, 500)


def test_users_without_an_email_are_told_apart_by_their_ids(connection: Connection) -> None:
    tell(connection, user_report("ann"), user_report("bob"), *owned("first", "third"), *owned("second", by="bob"))
    assert [limit(connection, name) for name in ("first", "second", "third")] == [100, 100, 500]


@pytest.mark.holds("cost-center.email-changed")
def test_a_changed_email_neither_renews_an_allowance_nor_frees_the_old_address(connection: Connection) -> None:
    tell(connection, user_report("ann", email_digest=SAME), *owned("first", "second"))
    assert limit(connection, "first") == 100
    tell(connection, user_report("ann", email_digest=OTHER, observed_at=START + HOUR))
    assert limit(connection, "second") == 500
    tell(connection, user_report("bob", email_digest=SAME), *owned("third", by="bob"))
    tell(connection, user_report("cyd", email_digest=OTHER), *owned("fourth", by="cyd"))
    assert (limit(connection, "third"), limit(connection, "fourth")) == (500, 500)


def test_an_email_that_is_told_after_the_claim_counts(connection: Connection) -> None:
    tell(connection, user_report("ann"), *owned("first"))
    assert limit(connection, "first") == 100
    tell(connection, user_report("ann", email_digest=SAME, observed_at=START + HOUR))
    tell(connection, user_report("bob", email_digest=SAME), *owned("second", by="bob"))
    assert limit(connection, "second") == 500


@pytest.mark.holds("cost-center.email-changed")
def test_who_is_deleted_and_comes_back_under_the_same_email_gets_none(connection: Connection) -> None:
    tell(connection, user_report("ann", email_digest=SAME), *owned("first"))
    assert limit(connection, "first") == 100
    tell(connection, user_report("ann", deleted=True, observed_at=START + HOUR))
    tell(connection, user_report("bob", email_digest=SAME), *owned("second", by="bob"))
    assert limit(connection, "second") == 500
    digests = connection.execute(text("SELECT email_digest FROM directory_user WHERE deleted")).scalars().all()
    assert digests == [None]


@pytest.mark.holds("cost-center.team-owner")
@pytest.mark.parametrize(
    ("told", "got"),
    [
        ([], 500),
        ([team_report(ann="owner")], 500),
        ([user_report("ann")], 500),
        ([user_report("ann"), team_report(ann="member")], 500),
        ([user_report("ann", deleted=True), team_report(ann="owner")], 500),
        ([user_report("ann"), team_report(ann="owner")], 100),
        ([user_report("ann"), team_report(ann="owner", bob="member")], 100),
        ([user_report("ann"), user_report("bob"), team_report(ann="owner", bob="owner")], 500),
        ([user_report("ann"), team_report(ann="owner", bob="owner")], 500),
        ([user_report("ann"), user_report("bob", deleted=True), team_report(ann="owner", bob="owner")], 100),
        (
            [
                user_report("ann"),
                user_report("bob"),
                team_report(ann="owner", bob="owner", creator_user_id=make_id("bob")),
            ],
            100,
        ),
        ([user_report("ann"), user_report("bob"), team_report(ann="owner", creator_user_id=make_id("bob"))], 100),
        (
            [
                user_report("ann"),
                user_report("bob"),
                team_report(ann="owner", bob="member", creator_user_id=make_id("bob")),
            ],
            100,
        ),
    ],
)
def test_whose_allowance_a_team_uses(connection: Connection, told: list[Any], got: int) -> None:
    tell(connection, *told)
    assert get(connection).spending_limit == got
    assert len(claims(connection)) == (got == 100)


@pytest.mark.holds("cost-center.team-owner")
def test_the_creator_pays_while_they_own_the_team_else_its_only_owner(connection: Connection) -> None:
    tell(connection, user_report("ann"), user_report("bob"))
    tell(connection, team_report("both", ann="owner", bob="owner", creator_user_id=make_id("bob")))
    tell(connection, team_report("left", ann="owner", bob="member", creator_user_id=make_id("bob")))
    assert (limit(connection, "both"), limit(connection, "left")) == (100, 100)
    users = {account: user_id for user_id, _, account, *_ in claims(connection)}
    assert users == {team("both"): make_id("bob"), team("left"): make_id("ann")}


@pytest.mark.holds("cost-center.team-owner")
def test_a_team_that_was_opened_before_the_directory_knew_it_uses_nothing_up(connection: Connection) -> None:
    assert limit(connection, "early") == 500
    tell(connection, user_report("ann"), *owned("early", "later"))
    assert limit(connection, "early", at=START + DAY) == 500
    assert limit(connection, "later") == 100


def test_a_team_that_is_open_already_claims_nothing_beside_one_that_is_opened(connection: Connection) -> None:
    assert limit(connection, "early") == 500
    tell(connection, user_report("ann"), user_report("bob"), *owned("early"), *owned("new", by="bob"))
    record(connection, *(session_report(attribution_id=team(name)) for name in ("early", "new")))
    assert (limit(connection, "early"), limit(connection, "new")) == (500, 100)
    assert [claim[0] for claim in claims(connection)] == [make_id("bob")]


def test_teams_that_one_batch_of_sessions_opens_share_one_allowance(connection: Connection) -> None:
    names = ["one", "two", "three"]
    tell(connection, user_report("ann"), *owned(*names))
    record(connection, *(session_report(attribution_id=team(name)) for name in names), session_report())
    assert sorted(limit(connection, name) for name in [*names, "team"]) == [100, 500, 500, 500]
    assert len(claims(connection)) == 1


@pytest.mark.holds("cost-center.first-team")
@pytest.mark.parametrize("same_user", [True, False])
def test_ten_teams_at_once_of_one_user_or_one_email_get_exactly_one_allowance(
    database: Database, *, same_user: bool
) -> None:
    teams, at_once, rounds = 10, 5, 3  # the pool has five connections
    names = [[f"{turn} {number}" for number in range(teams)] for turn in range(rounds)]
    with database.transaction() as connection:
        for turn, row in enumerate(names):
            digest = EmailDigest(f"{turn:064x}")
            for number, name in enumerate(row):
                who = f"{turn}" if same_user else f"{turn} {number}"
                tell(connection, user_report(who, email_digest=digest))
                tell(connection, team_report(name, creator_user_id=make_id(who), ann="owner"))
                owner = "INSERT INTO directory_member VALUES (:team, :user, 'owner')"
                connection.execute(text(owner), {"team": make_id(name), "user": make_id(who)})
    ready = Barrier(at_once)

    def opens(name: str) -> int:
        ready.wait()
        with database.transaction() as connection:
            return limit(connection, name)

    with ThreadPoolExecutor(at_once) as pool:
        for row in names:
            assert sorted(pool.map(opens, row)) == [100] + [500] * (teams - 1)
    with database.transaction() as connection:
        assert len(claims(connection)) == rounds


def test_one_team_opened_ten_times_at_once_is_one_cost_center_and_one_claim(database: Database) -> None:
    at_once = 5
    with database.transaction() as connection:
        tell(connection, user_report("ann", email_digest=SAME), *owned("first"))
    ready = Barrier(at_once)

    def opens(_: int) -> int:
        ready.wait()
        with database.transaction() as connection:
            return limit(connection, "first")

    with ThreadPoolExecutor(at_once) as pool:
        assert list(pool.map(opens, range(10))) == [100] * 10
    with database.transaction() as connection:
        assert len(claims(connection)) == 1


def test_who_loses_the_race_to_open_a_team_uses_no_allowance_up(database: Database) -> None:
    """One transaction opens a team that it does not know. Another knows it, waits, and must not claim for it."""
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as first:
            assert limit(first, "team") == 500
            with database.transaction() as connection:
                tell(connection, user_report("ann"), *owned("team", "next"))
            waiting = pool.submit(_open_team, database)
            _wait_for_a_lock(database)
        assert waiting.result() == 500
    with database.transaction() as connection:
        assert claims(connection) == []
        assert limit(connection, "next") == 100


def _open_team(database: Database) -> int:
    with database.transaction() as connection:
        return limit(connection, "team")


def _wait_for_a_lock(database: Database) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    for _ in range(10_000):
        with database.transaction() as connection:
            if connection.execute(text(waiting)).scalar_one():
                return
    raise AssertionError("nobody waited")


@pytest.mark.holds("cost-center.first-team")
def test_a_crash_after_the_claim_leaves_neither_account_nor_claim(database: Database) -> None:
    with database.transaction() as connection:
        tell(connection, user_report("ann"), *owned("first", "second"))

    def crash() -> None:
        with database.transaction() as connection:
            assert limit(connection, "first") == 100
            raise InvariantError("killed here")

    with pytest.raises(InvariantError, match="killed here"):
        crash()
    with database.transaction() as connection:
        assert claims(connection) == []
        assert connection.execute(text("SELECT count(*) FROM cost_center")).scalar_one() == 0
        assert limit(connection, "second") == 100


@pytest.mark.parametrize("change", ["UPDATE allowance_claim SET email_digest = NULL", "DELETE FROM allowance_claim"])
def test_a_claim_is_never_taken_back(connection: Connection, change: str) -> None:
    with pytest.raises(Exception, match="allowance_claim"):
        connection.execute(text(change))

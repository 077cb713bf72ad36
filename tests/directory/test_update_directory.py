from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import DAY, HOUR, START, SYSTEM, make_id, team
from usage_tasks.domain.access import Person, TeamRole
from usage_tasks.domain.directory import EmailDigest, Member, TeamReport, UserReport
from usage_tasks.services.directory.update_directory import Upserted, upsert_teams, upsert_users
from usage_tasks.storage.directory.people import find_person
from usage_tasks.storage.engine import Database, rehearsal

HELD = [
    "SELECT user_id, email_digest, administrator, deleted, observed_at FROM directory_user ORDER BY user_id",
    "SELECT team_id, creator_user_id, digest, observed_at FROM directory_team ORDER BY team_id",
    "SELECT team_id, user_id, role FROM directory_member ORDER BY team_id, user_id",
]
MINUTE = timedelta(minutes=1)
AUDIT = "SELECT at, actor, action, attribution_id, details FROM audit ORDER BY audit_id"
NAMES = ["ann", "bob", "cyd"]


def user_report(name: str = "ann", **fields: Any) -> UserReport:
    values = {"email_digest": None, "administrator": False, "deleted": False, "observed_at": START}
    return UserReport(user_id=make_id(name), **(values | fields))


def team_report(name: str = "team", **fields: Any) -> TeamReport:
    """A report of a team; its members by name, such as `ann="owner"`."""
    roles = {key: fields.pop(key) for key in NAMES if key in fields}
    members = [Member(user_id=make_id(who), role=TeamRole(role)) for who, role in roles.items()]
    values = {"creator_user_id": None, "observed_at": START} | fields
    return TeamReport(team_id=make_id(name), members=members, **values)


def tell(connection: Connection, *reports: UserReport | TeamReport) -> Upserted:
    users = [each for each in reports if isinstance(each, UserReport)]
    teams = [each for each in reports if isinstance(each, TeamReport)]
    done = [
        upsert_users(connection, users, at=START, actor=SYSTEM),
        upsert_teams(connection, teams, at=START, actor=SYSTEM),
    ]
    return Upserted(applied=sum(each.applied for each in done), ignored=sum(each.ignored for each in done))


def held(connection: Connection) -> list[list[tuple[object, ...]]]:
    return [[tuple(row) for row in connection.execute(text(query))] for query in HELD]


def members(connection: Connection) -> dict[object, str]:
    return {user_id: role for _, user_id, role in held(connection)[2]}  # type: ignore[misc]  # rows of an untyped query


def person(connection: Connection, name: str, in_team: str = "team") -> Person:
    return find_person(connection, make_id(name), team_id=make_id(in_team))


@pytest.mark.holds("people.left-team")
def test_who_is_not_in_a_teams_report_has_left(connection: Connection) -> None:
    tell(connection, team_report(ann="owner", bob="member"), team_report("other", bob="owner"))
    assert tell(connection, team_report(cyd="owner", bob="owner", observed_at=START + HOUR)).applied == 1
    assert person(connection, "ann").team_role is None
    assert person(connection, "bob").team_role is person(connection, "cyd").team_role is TeamRole.OWNER
    assert person(connection, "bob", "other").team_role is TeamRole.OWNER
    tell(connection, team_report(observed_at=START + DAY))
    assert set(members(connection)) == {make_id("bob")}


@pytest.mark.holds("people.latest-report")
def test_an_older_report_never_overwrites_a_newer_one(connection: Connection) -> None:
    late = START + HOUR
    tell(connection, team_report(ann="member", observed_at=late), user_report(administrator=False, observed_at=late))
    before = held(connection)
    done = tell(connection, team_report(ann="owner", bob="owner"), user_report(administrator=True))
    assert done == Upserted(applied=0, ignored=2)
    assert held(connection) == before


def test_the_same_report_again_changes_nothing_and_is_audited_once(connection: Connection) -> None:
    reports: list[UserReport | TeamReport] = [user_report(administrator=True), team_report(ann="owner", bob="member")]
    assert tell(connection, *reports) == Upserted(applied=2, ignored=0)
    before = held(connection)
    assert tell(connection, *reports, *reports) == Upserted(applied=0, ignored=4)
    assert held(connection) == before
    assert connection.execute(text("SELECT count(*) FROM audit")).scalar_one() == 2


def test_nobody_and_nothing_told_is_no_error(connection: Connection) -> None:
    assert tell(connection) == Upserted(applied=0, ignored=0)


def test_a_team_may_be_told_before_its_users(connection: Connection) -> None:
    tell(connection, team_report(ann="owner"))
    assert person(connection, "ann") == Person(team_role=TeamRole.OWNER)
    tell(connection, user_report(deleted=True))
    assert person(connection, "ann") == Person(team_role=TeamRole.OWNER, deleted=True)


def test_who_became_what_is_audited_with_who_told_it(connection: Connection) -> None:
    tell(connection, user_report(), user_report("bob", administrator=True), team_report(ann="owner", bob="member"))
    later: dict[str, Any] = {"observed_at": START + HOUR}
    tell(connection, user_report("bob", deleted=True, **later), team_report(ann="owner", cyd="member", **later))
    ann, bob, cyd = (str(make_id(name)) for name in NAMES)
    expected: list[tuple[str, str, dict[str, object]]] = [
        ("user.set", f"user:{bob}", {"administrator": [None, True], "deleted": [None, False]}),
        ("team.set_members", team(), {"members": {ann: "owner", bob: "member"}}),
        ("user.set", f"user:{bob}", {"administrator": [True, False], "deleted": [False, True]}),
        ("team.set_members", team(), {"members": {bob: None, cyd: "member"}}),
    ]
    rows = [tuple(row) for row in connection.execute(text(AUDIT))]
    assert rows == [(START, SYSTEM, action, who, details) for action, who, details in expected]


MOMENTS = st.integers(0, 3).map(lambda hours: START + timedelta(hours=hours))
USERS = st.builds(
    lambda name, digest, administrator, deleted, observed_at: user_report(
        name,
        email_digest=None if deleted or digest is None else EmailDigest(digest * 64),
        administrator=administrator,
        deleted=deleted,
        observed_at=observed_at,
    ),
    st.sampled_from(NAMES),
    st.sampled_from([None, "a", "b"]),
    st.booleans(),
    st.booleans(),
    MOMENTS,
)
TEAMS = st.builds(
    lambda name, creator, roles, observed_at: team_report(
        name, creator_user_id=creator and make_id(creator), observed_at=observed_at, **roles
    ),
    st.sampled_from(["team", "other"]),
    st.sampled_from([None, *NAMES]),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["owner", "member"])),
    MOMENTS,
)


@pytest.mark.holds("people.latest-report")
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), reports=st.lists(st.one_of(USERS, TEAMS), min_size=1, max_size=12))
def test_reports_converge_whatever_their_order_their_repeats_and_their_batches(
    connection: Connection, data: st.DataObject, reports: list[UserReport | TeamReport]
) -> None:
    shuffled = data.draw(st.permutations([*reports, *data.draw(st.lists(st.sampled_from(reports), max_size=4))]))
    cuts = data.draw(st.lists(st.integers(0, len(shuffled)), max_size=4).map(sorted))
    with rehearsal(connection):
        for report in reports:
            tell(connection, report)
        one_by_one = held(connection)
    with rehearsal(connection):
        for begin, end in zip([0, *cuts], [*cuts, len(shuffled)], strict=True):
            tell(connection, *shuffled[begin:end])
        assert held(connection) == one_by_one
    assert_is_the_latest_of_each(reports, one_by_one)


def assert_is_the_latest_of_each(
    reports: Sequence[UserReport | TeamReport], found: Sequence[Sequence[tuple[object, ...]]]
) -> None:
    """Check against the plainest statement of the rule."""
    last_user = {each.user_id: each for each in sorted_by_order(reports, UserReport)}
    last_team = {each.team_id: each for each in sorted_by_order(reports, TeamReport)}
    assert {row[0]: tuple(row[1:]) for row in found[0]} == {
        who: (each.email_digest, each.administrator, each.deleted, each.observed_at) for who, each in last_user.items()
    }
    assert {tuple(row) for row in found[2]} == {
        (each.team_id, member.user_id, member.role.value) for each in last_team.values() for member in each.members
    }


def sorted_by_order(reports: Sequence[UserReport | TeamReport], kind: type[Any]) -> list[Any]:
    return sorted((each for each in reports if isinstance(each, kind)), key=lambda each: each.order)


def test_senders_at_once_converge_too(database: Database) -> None:
    senders, rounds = 4, 3  # the pool has five connections
    teams = [f"team {number}" for number in range(20)]
    sent = [
        [
            team_report(name, observed_at=START + step * HOUR + sender * MINUTE, **{NAMES[sender % 3]: role})
            for name in (teams if sender % 2 else teams[::-1])
        ]
        + [user_report(name, administrator=bool(sender % 2), observed_at=START + step * HOUR) for name in NAMES]
        for step in range(rounds)
        for sender, role in zip(range(senders), ["owner", "member"] * 2, strict=True)
    ]
    ready = Barrier(senders)

    def send(batches: Sequence[Sequence[UserReport | TeamReport]]) -> None:
        ready.wait()
        for batch in batches:
            with database.transaction() as connection:
                tell(connection, *batch)

    with ThreadPoolExecutor(senders) as pool:
        for done in [pool.submit(send, sent[number::senders]) for number in range(senders)]:
            done.result()
    everything = [report for batch in sent for report in batch]
    with database.transaction() as connection:
        assert_is_the_latest_of_each(everything, held(connection))


def test_a_crash_between_a_team_and_its_members_leaves_neither(database: Database) -> None:
    with database.transaction() as connection:
        tell(connection, team_report(ann="owner"))
        without_cyd = f"ALTER TABLE directory_member ADD CONSTRAINT no_cyd CHECK (user_id <> '{make_id('cyd')}')"
        connection.execute(text(without_cyd))
        before = held(connection)
    newer = team_report(cyd="owner", observed_at=START + HOUR)
    with pytest.raises(Exception, match="no_cyd"), database.transaction() as connection:
        tell(connection, newer)
    with database.transaction() as connection:
        assert held(connection) == before
        connection.execute(text("ALTER TABLE directory_member DROP CONSTRAINT no_cyd"))
        assert tell(connection, newer, replace(newer)).applied == 1
        assert set(members(connection)) == {make_id("cyd")}

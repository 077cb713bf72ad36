"""`directory.*` over the wire: reports arrive, and no trace of an e-mail is left but a keyed digest."""

import json
import time
from base64 import b64decode
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from traceback import format_exception
from typing import Any, Final

import pytest
from celery import Celery
from celery.exceptions import Retry as CeleryRetry
from prometheus_client import generate_latest
from sqlalchemy import text

from tests.client.test_client import PREFIX, make_sender, start_worker
from tests.factories import DAY, START, call, make_id, team
from tests.ledger.test_cost_center import get
from tests.snapshot import snapshot
from tests.tasks.test_task import as_if_delivered
from usage_tasks import client
from usage_tasks.domain.errors import InvalidInputError, RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.settings import SettingsError
from usage_tasks.tasks import directory
from usage_tasks.tasks.task import ArgumentsError

KEY: Final = "obviously-fake-key-for-tests-only"
NOW: Final = (START + DAY).isoformat()
ASKED: Final = {"actor": "service:server", "at": NOW}


def user_row(name: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"user_id": str(make_id(name)), "observed_at": START.isoformat()} | fields


def team_row(name: str = "team", members: Sequence[str] = ("ann",), **fields: Any) -> dict[str, Any]:
    owners = [{"user_id": str(make_id(who)), "role": "owner"} for who in members]
    return {"team_id": str(make_id(name)), "observed_at": START.isoformat(), "members": owners} | fields


@pytest.fixture
def keyed(environment: dict[str, str], request: pytest.FixtureRequest) -> Runtime:
    """An installation with a key."""
    environment["USAGE_DIRECTORY_KEY"] = KEY
    rt: Runtime = request.getfixturevalue("rt")
    return rt


def test_what_is_told_decides_whose_allowance_a_team_uses(keyed: Runtime) -> None:
    users = [user_row("ann", email="Ann@Example.com"), user_row("bob", email=" ann@example.com")]
    assert call(directory.upsert_users, users=users, **ASKED) == {"applied": 2, "ignored": 0}
    teams = [team_row("first"), team_row("second", ["bob"])]
    assert call(directory.upsert_teams, teams=teams, **ASKED) == {"applied": 2, "ignored": 0}
    assert call(directory.upsert_teams, teams=teams, **ASKED) == {"applied": 0, "ignored": 2}
    with keyed.transaction() as connection:
        assert get(connection, team("first")).spending_limit == 100
        assert get(connection, team("second")).spending_limit == 500


BAD: Final[list[tuple[str, list[Any], str]]] = [
    (
        "users",
        [user_row(email="no address, said zaphod")],
        "`users.0.email`: must be an e-mail address such as name@example.com",
    ),
    (
        "users",
        [user_row(), user_row(email="a@b@zaphod")],
        "`users.1.email`: must be an e-mail address such as name@example.com",
    ),
    (
        "users",
        [user_row(email="zaphod@" + "x" * 400)],
        "`users.0.email`: must be at most 320 characters (got text of 407 characters)",
    ),
    ("users", [user_row(email=["zaphod@example.com"])], "`users.0.email`: must be text (got a list of 1)"),
    ("users", [user_row(user_id="zaphod@example.com ")], "`users.0.user_id`: must be a UUID such as"),
    ("users", [user_row(observed_at=None)], "`users.0.observed_at`: must be an ISO 8601 text"),
    ("users", [{"user_id": str(make_id("ann"))}], "`users.0.observed_at`: must be given (got nothing)"),
    (
        "users",
        [user_row(administrator="yes")],
        "`users.0.administrator`: must be true or false (got text of 3 characters)",
    ),
    ("users", [user_row(phone="1")], "`users.0.phone`: no such field"),
    ("users", [user_row()] * 5001, "`users`: must be at most 5000 items (got a list of 5001)"),
    ("teams", [team_row()] * 1001, "`teams`: must be at most 1000 items (got a list of 1001)"),
    ("teams", [team_row(members=["ann", "ann"])], "`teams.0`: must be a team with each user once"),
    ("teams", [team_row(members=[], team_id="")], "`teams.0.team_id`: must be a UUID"),
    (
        "teams",
        [team_row() | {"members": [{"user_id": str(make_id("ann")), "role": "chief"}]}],
        "`teams.0.members.0.role`: must be 'owner' or 'member' (got 'chief')",
    ),
    ("teams", [team_row(members=[str(n) for n in range(5001)])], "`teams.0.members`: must be at most 5000 items"),
]


@pytest.mark.holds("people.bad-report")
@pytest.mark.parametrize(("what", "rows", "told"), BAD, ids=[each[2][:40] for each in BAD])
def test_a_bad_report_refuses_its_message_by_the_name_of_the_field_and_never_shows_an_email(
    keyed: Runtime, what: str, rows: list[Any], told: str
) -> None:
    task = {"users": directory.upsert_users, "teams": directory.upsert_teams}[what]
    before = snapshot(keyed.database)
    with as_if_delivered(task), pytest.raises((ArgumentsError, InvalidInputError)) as refused:
        call(task, **{what: rows}, **ASKED)
    assert str(refused.value).startswith(told)
    assert "zaphod" not in "".join(format_exception(refused.value))
    assert snapshot(keyed.database) == before


@pytest.mark.holds("people.bad-report")
def test_bounds_that_only_the_whole_message_shows(keyed: Runtime) -> None:
    crowd = [str(number) for number in range(4001)]
    with pytest.raises(
        InvalidInputError, match=r"`teams`: must be at most 20000 members in one message \(got '20005 members'\)"
    ):
        call(directory.upsert_teams, teams=[team_row(str(number), crowd) for number in range(5)], **ASKED)
    ahead = (START + DAY + timedelta(minutes=5, seconds=1)).isoformat()
    with pytest.raises(InvalidInputError, match=r"users\.1\.observed_at`: must be at most 5 minutes after"):
        call(directory.upsert_users, users=[user_row(), user_row("bob", observed_at=ahead)], **ASKED)
    with pytest.raises(InvalidInputError, match=r"teams\.0\.observed_at`: must be at most 5 minutes after"):
        call(directory.upsert_teams, teams=[team_row(observed_at=ahead)], **ASKED)


@pytest.mark.holds("people.no-key")
def test_without_a_key_only_an_email_is_an_error_that_says_what_to_set(rt: Runtime) -> None:
    rows = [user_row("ann"), user_row("bob", email="bob@example.com", deleted=True)]
    assert call(directory.upsert_users, users=rows, **ASKED)["applied"] == 2
    before = snapshot(rt.database)
    with pytest.raises(SettingsError) as refused:
        call(directory.upsert_users, users=[user_row("cyd", email="cyd@example.com")], **ASKED)
    assert "`directoryKeyFile`: must be given for e-mails (got nothing), or USAGE_DIRECTORY_KEY" in str(refused.value)
    assert "cyd" not in str(refused.value)
    assert snapshot(rt.database) == before


def test_what_is_tried_again_hides_its_arguments_too(keyed: Runtime) -> None:
    arguments = {"users": [user_row(email="ann@example.com")], "actor": "service:server"}
    with as_if_delivered(directory.upsert_users, kwargs=arguments), pytest.raises(CeleryRetry) as again:
        call(directory.upsert_users, **arguments)  # the test clock is not set yet
    assert isinstance(again.value.exc, RetryableError)
    (message,) = keyed.redis.lrange("usage:directory", 0, -1)
    assert_only_the_body_holds(message, "ann@example.com")


def assert_only_the_body_holds(message: str | bytes, email: str) -> None:
    """Check that the search finds the e-mail in the body, so that an empty result elsewhere is proof."""
    envelope = json.loads(message)
    assert email.encode() in b64decode(envelope.pop("body"))
    assert email not in json.dumps(envelope).lower()


@pytest.mark.holds("people.bad-report")
@pytest.mark.timeout(60)
def test_an_email_is_in_no_table_log_metric_or_header(
    keyed: Runtime, environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    """A real worker, log at debug, events on: a valid report, an invalid one, and one from a forbidden sender."""
    sender = make_sender(redis_url)
    sender.conf.task_send_sent_event = True
    name = "zaphod.beeblebrox"
    row = user_row(email=f"{name}@example.com", observed_at=START.isoformat())
    client.tell_users(sender, [row], actor="service:server")
    wrong = {"users": [row | {"email": f"not an address, {name}"}], "actor": "service:server"}
    hidden: dict[str, Any] = {"argsrepr": "(hidden)", "kwargsrepr": "(hidden)"}
    sender.send_task("directory.upsert_users", kwargs=wrong, queue="directory", **hidden)  # its answer is kept
    client.tell_users(sender, [row], actor=f"user:{make_id('ann')}")
    client.tell_teams(sender, [team_row()], actor="service:server")
    messages = keyed.redis.lrange("usage:directory", 0, -1)
    assert len(messages) == 4
    assert_only_the_body_holds(messages[-1], f"{name}@example.com")
    for message in messages:
        assert name not in json.dumps(json.loads(message) | {"body": ""})
    log = tmp_path / "worker-1.log"
    debug = {"USAGE_LOG_LEVEL": "DEBUG"}
    with ExitStack() as workers:
        start_worker(workers, environment | debug, tmp_path, 1, "-E", queue="directory")
        _await_lines(log, '"event": "task.ended"', 4)
    told = log.read_text()
    assert '"level": "debug"' in told
    assert told.count("task.refused") == 2
    assert "TaskPool: Apply" not in told  # which would be followed by the arguments
    assert "`users.0.email`: must be an e-mail address such as name@example.com" in told
    assert name not in told.lower()
    assert KEY not in told
    held = snapshot(keyed.database)
    assert name not in str(held).lower()
    assert KEY not in str(held)
    with keyed.transaction() as connection:
        digest = connection.execute(text("SELECT email_digest FROM directory_user")).scalar_one()
        assert connection.execute(text("SELECT count(*) FROM directory_member")).scalar_one() == 1
    assert len(digest) == 64
    assert "ArgumentsError" in everything_in(keyed)  # the answer of the refused message is there to be searched
    assert name not in everything_in(keyed)
    assert name.encode() not in generate_latest()


def everything_in(rt: Runtime) -> str:
    read: dict[Any, Any] = {
        b"string": rt.redis.get,
        b"list": lambda key: rt.redis.lrange(key, 0, -1),
        b"hash": rt.redis.hgetall,
        b"set": rt.redis.smembers,
        b"zset": lambda key: rt.redis.zrange(key, 0, -1),
    }
    keys: Any = rt.redis.keys("*")
    return str([read[rt.redis.type(key)](key) for key in keys])


def _await_lines(log: Path, what: str, count: int) -> None:
    give_up_at = time.monotonic() + 30
    while log.read_text().count(what) < count:
        assert time.monotonic() < give_up_at, log.read_text()
        time.sleep(0.02)


def test_teams_are_told_in_messages_that_hold_only_so_many_members(redis_url: str, rt: Runtime) -> None:
    crowd = [str(number) for number in range(5000)]
    sender = Celery("somebody", broker=redis_url, set_as_current=False)
    sender.conf.broker_transport_options = PREFIX
    teams = [team_row(str(number), crowd) for number in range(5)]
    client.tell_teams(sender, teams, actor="service:server")
    client.tell_teams(sender, [], actor="service:server")
    bodies = [json.loads(b64decode(json.loads(each)["body"])) for each in rt.redis.lrange("usage:directory", 0, -1)]
    sent = [kwargs["teams"] for _, kwargs, _ in reversed(bodies)]
    assert [len(each) for each in sent] == [4, 1]
    assert [row for each in sent for row in each] == teams

"""A network that drops everything and ends nothing: every wait for PostgreSQL ends, and a long statement goes on."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from tests.chaos.proxy import Wire
from tests.storage.test_connecting import PASSWORD, role_with_password
from usage_tasks.domain.errors import RetryableError
from usage_tasks.embedded.servers import Servers
from usage_tasks.storage import silent_peer
from usage_tasks.storage.engine import Database

ENOUGH_SECONDS = 8
"""With the shorter waits of these tests; without the bound nothing ends before the server's own limit of 4 minutes."""


@pytest.fixture(autouse=True)
def shorter_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silent_peer, "ASK_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(silent_peer, "ASK_AGAIN_SECONDS", 0.3)


@pytest.fixture
def wire(database_url: str) -> Iterator[Wire]:
    wire = Wire(make_url(database_url).port or 5432)
    yield wire
    wire.close()


def address(database_url: str, wire: Wire) -> str:
    url = make_url(database_url).set(drivername="postgresql+psycopg", host="127.0.0.1", port=wire.port)
    return url.render_as_string(hide_password=False)


@pytest.fixture
def through(wire: Wire, database_url: str) -> Iterator[Database]:
    """The test's database, behind the wire."""
    opened = Database(address(database_url, wire))
    yield opened
    opened.dispose()


def later(seconds: float, act: Callable[[], None]) -> None:
    threading.Timer(seconds, act).start()


def sleep(database: Database, seconds: float) -> None:
    with database.transaction() as connection:
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


def test_a_read_ends_when_the_peer_is_back_and_has_lost_the_answer(wire: Wire, through: Database) -> None:
    sleep(through, 0)
    later(0.3, wire.silence)
    later(1.5, wire.speak)
    started = time.monotonic()
    with pytest.raises(RetryableError, match=r"08006 no answer for .*: the server waits for this client"):
        sleep(through, 0.6)
    assert time.monotonic() - started < ENOUGH_SECONDS
    sleep(through, 0)


def test_the_locks_of_a_session_that_lost_its_client_are_free_afterwards(
    wire: Wire, through: Database, database: Database
) -> None:
    def lock_and_lose() -> None:
        with through.transaction() as connection:
            connection.execute(text("LOCK TABLE ledger_entry IN ACCESS EXCLUSIVE MODE"))
            wire.silence()
            later(0.5, wire.speak)
            connection.execute(text("SELECT 1"))

    with pytest.raises(RetryableError, match="the server waits for this client"):
        lock_and_lose()
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '3s'"))
        connection.execute(text("LOCK TABLE ledger_entry IN ACCESS EXCLUSIVE MODE"))


def test_a_session_that_the_server_ended_meanwhile_is_left(wire: Wire, through: Database, database: Database) -> None:
    def end_and_read() -> None:
        with through.transaction() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            wire.silence()
            with database.transaction() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            wire.speak()
            connection.execute(text("SELECT 1"))

    with pytest.raises(RetryableError, match="the session has ended on the server"):
        end_and_read()


def test_a_long_statement_goes_on_while_the_server_works_on_it(through: Database) -> None:
    sleep(through, 3)


def test_a_statement_that_waits_for_a_lock_goes_on(through: Database, database: Database) -> None:
    locked = threading.Event()

    def hold() -> None:
        with database.transaction() as holder:
            holder.execute(text("LOCK TABLE ledger_entry IN ACCESS EXCLUSIVE MODE"))
            locked.set()
            time.sleep(2.5)

    with ThreadPoolExecutor() as pool:
        held = pool.submit(hold)
        locked.wait()
        with through.transaction() as connection:
            assert connection.execute(text("SELECT count(*) FROM ledger_entry")).scalar_one() == 0
        held.result()


def test_a_read_ends_in_any_case(wire: Wire, through: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_in_silence() -> None:
        with through.transaction() as connection:
            wire.silence()
            connection.execute(text("SELECT 1"))

    monkeypatch.setattr(silent_peer, "UNKNOWN_SECONDS_MAX", 2)
    started = time.monotonic()
    with pytest.raises(RetryableError, match="nor could the server be asked"):
        read_in_silence()
    assert time.monotonic() - started < ENOUGH_SECONDS + silent_peer.ANSWER_SECONDS_MAX


def test_a_copy_that_nobody_takes_ends(wire: Wire, through: Database) -> None:
    def copy() -> None:
        with through.transaction() as connection:
            connection.execute(text("CREATE TEMPORARY TABLE taken (line text)"))
            driver = connection.connection.driver_connection
            assert driver is not None
            with driver.cursor() as cursor, cursor.copy("COPY taken FROM STDIN") as into:
                wire.silence()
                later(0.5, wire.speak)
                into.write("one\n")

    with pytest.raises(RetryableError, match="08006"):
        copy()
    sleep(through, 0)


def test_a_pool_whose_connections_all_lead_nowhere_serves_after_one_wait(wire: Wire, through: Database) -> None:
    with through.transaction(), through.transaction(), through.transaction():
        pass
    wire.silence()
    wire.speak()
    started = time.monotonic()
    for _ in range(3):
        with through.transaction(), through.transaction(), through.transaction():
            pass
    assert time.monotonic() - started < ENOUGH_SECONDS


def test_a_connection_takes_at_most_its_time(wire: Wire, through: Database) -> None:
    wire.silence()
    started = time.monotonic()
    with pytest.raises(RetryableError, match="timeout expired"):
        sleep(through, 0)
    assert time.monotonic() - started < ENOUGH_SECONDS


class Pooler(Wire):
    """Gives its clients process ids that the server does not know, as poolers do."""

    def forward(self, data: bytes) -> bytes:
        """Change the message with the process id."""
        return re.sub(rb"K\0\0\0\x0c....", b"K\0\0\0\x0c\x7f\0\0\x01", data, flags=re.DOTALL)


def test_behind_a_pooler_a_long_statement_goes_on(database_url: str) -> None:
    pooler = Pooler(make_url(database_url).port or 5432)
    pooled = Database(address(database_url, pooler))
    sleep(pooled, 3)
    pooled.dispose()
    pooler.close()


def test_keepalives_and_the_bounds_of_the_kernel_are_set(through: Database) -> None:
    with through.transaction() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        held = {each.keyword.decode(): each.val.decode() for each in driver.pgconn.info if each.val}
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
        of_server = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]
    asked = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
    assert [held.get(name) for name in asked] == ["1", "5", "2", "3", "12000"]
    assert of_server == ["5", "2", "3", "12000"]


def test_the_question_is_asked_with_the_password_of_the_connection(servers: Servers, wire: Wire) -> None:
    role = "usage_test_silent"
    with role_with_password(servers.database_url, role):
        url = make_url(address(servers.database_url, wire)).set(username=role, password=PASSWORD)
        database = Database(url.render_as_string(hide_password=False))
        with pytest.raises(RetryableError, match="the server waits for this client"):
            lose_the_answer(database, wire)
        database.dispose()


def lose_the_answer(database: Database, wire: Wire) -> None:
    with database.transaction() as connection:
        wire.silence()
        wire.speak()
        connection.execute(text("SELECT 1"))

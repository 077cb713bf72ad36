"""README.md as it stands: its commands run, its example records, asks and hears, and nothing in it is out of date."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from celery import Celery
from sqlalchemy.engine import make_url

from tests.client.test_client import make_sender
from tests.conftest import Administer
from tests.docs.readme import (
    README,
    ROOT,
    Shell,
    copy_checkout,
    find_block,
    give_libraries,
    make_environment,
    read_blocks,
)
from usage_tasks.cli import COMMANDS
from usage_tasks.domain.announcements import ANNOUNCEMENTS
from usage_tasks.embedded.servers import Servers

LINES_MAX = 130
SECONDS_MAX = 60
TEXT = README.read_text()
DATABASE = "readme_example"

pytestmark = pytest.mark.timeout(400)


def wait_until(holds: Callable[[], bool], log: Callable[[], str]) -> None:
    give_up_at = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < give_up_at, log()
        time.sleep(0.1)


def wait_for_words(words: str, log: Callable[[], str]) -> None:
    wait_until(lambda: words in log(), log)


@pytest.fixture(scope="module")
def redis_database(servers: Servers) -> str:
    with closing(redis.Redis.from_url(servers.redis_url)) as client:
        client.flushdb()
    return servers.redis_url


@pytest.fixture(scope="module")
def shell(
    servers: Servers, administer: Administer, redis_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """A terminal after the block that installs: line by line, with the servers of the tests."""
    directory = tmp_path_factory.mktemp("newcomer")
    checkout = copy_checkout(directory / "checkout")
    administer("CREATE DATABASE {}", DATABASE)
    database = make_url(servers.database_url).set(database=DATABASE).render_as_string(hide_password=False)
    typed = Shell(directory=checkout, environment=make_environment(directory))
    first, _, rest = find_block("sh", "pip install").partition("\n")
    typed.run(first)
    give_libraries(checkout / "venv")
    rest = rest.replace("postgresql://usage:password@127.0.0.1:5432/usage", database).replace(
        "redis://127.0.0.1:6379/0", redis_database
    )
    assert database in rest
    assert redis_database in rest
    with typed.processes:
        typed.run(rest)
        yield typed
    administer("DROP DATABASE {} WITH (FORCE)", DATABASE)


@pytest.fixture(scope="module")
def running(shell: Shell) -> Shell:
    """The terminal with every process of the block that starts them."""
    lines = find_block("sh", "celery -A usage_tasks").splitlines()
    logs = [shell.start(line, name=f"process-{number}") for number, line in enumerate(lines)]
    for line, log in zip(lines, logs, strict=True):
        wait_for_words("beat: Starting" if " beat" in line else " ready.", log)
    return shell


@pytest.fixture
def sender(redis_database: str) -> Iterator[Celery]:
    app = make_sender(redis_database)
    yield app
    app.close()


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= LINES_MAX


def test_every_block_of_commands_is_run_by_a_test() -> None:
    shown = [each.text.splitlines()[0] for each in read_blocks() if each.language in {"sh", "python"}]
    assert shown == [
        "make demo",  # by .ci/run
        "python3 -m venv venv && . venv/bin/activate",
        ". ./env.sh; celery -A usage_tasks worker -n usage@%h -Q usage --concurrency 2",
        "import os",
        ". ./env.sh; python platform_example.py",
    ]


def test_the_targets_of_make_are_those_of_continuous_integration() -> None:
    run = re.findall(r"^(make \w+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert run == ["make test", "make lint", "make demo"]
    assert set(re.findall(r"make (?:demo|test|lint)", TEXT)) == set(run)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {line.removeprefix("make ") for line in run} <= targets


def test_every_command_that_it_names_exists() -> None:
    assert {name for name in re.findall(r"`?usage-tasks ([a-z]+)`?", TEXT) if f"usage-tasks {name}`" in TEXT} <= set(
        COMMANDS
    )


def test_what_it_installs_are_the_two_wheels(shell: Shell) -> None:
    place = shell.run(
        "python -P -c 'import usage_tasks, usage_tasks_client as c; print(usage_tasks.__file__, c.__file__)'"
    )
    assert all(Path(each).is_relative_to(shell.directory / "venv") for each in place.split())
    assert shell.run("usage-tasks --version").startswith("usage-tasks ")


def test_its_processes_start_with_names_of_their_own(running: Shell, sender: Celery) -> None:
    names = {name.partition("@")[0] for answer in sender.control.ping(timeout=3) or [] for name in answer}
    assert {"usage", "billing-stripe", "maintenance-directory"} <= names


def test_the_doctor_finds_nothing_wrong(running: Shell) -> None:
    found = running.run_in_new_terminal(". ./env.sh; usage-tasks doctor").splitlines()
    assert [line for line in found if line.startswith("wrong")] == []
    assert re.match(r"\d+ checks, ", found[-1])


def test_its_example_records_asks_and_hears_of_a_limit_and_destroys_no_other_announcement(
    running: Shell, sender: Celery
) -> None:
    (running.directory / "platform_example.py").write_text(find_block("python", "usage_tasks_client"))
    asks, hears = find_block("sh", "platform_example").splitlines()
    recorded, balance = running.run_in_new_terminal(asks).splitlines()
    assert recorded.startswith("Recorded(inserted=1, updated=0, unchanged=0, quarantined=0")
    # It runs on while it is asked for: a credit cent in 1.2 seconds.
    assert re.search(r"'balance_cents': 600\d\d\b.*'limit_state': 'reached'", balance), balance
    printed = running.start(hears, name="platform")
    # Beat asks for these each minute.
    sender.send_task("usage.reconcile", queue="usage").get(timeout=30)
    sender.send_task("maintenance.dispatch_outbox", queue="maintenance").get(timeout=30)
    reached = ("usage_threshold_reached", "usage_limit_reached", "usage_hard_limit_reached")
    wait_until(lambda: all(f"server.{name} for team:7e1d3a52" in printed() for name in reached), printed)
    percents = re.findall(r"server\.usage_threshold_reached for team:7e1d3a52.*'percent': (\d+)", printed())
    assert sorted(percents) == ["50", "80"]
    for name in ANNOUNCEMENTS:
        sender.send_task(name, kwargs={"attribution_id": "team:sample", "at": "now"}, queue="server")
    wait_until(lambda: all(f"{name} for team:sample" in printed() for name in ANNOUNCEMENTS), printed)
    assert "unregistered" not in printed()


def test_the_demos_output_that_it_shows_is_what_the_demo_prints() -> None:
    """Compare the words, not the figures; tests/demo looks at those."""
    source = "".join(file.read_text() for file in (ROOT / "usage_tasks" / "demo").glob("*.py"))
    (shown,) = (each.text for each in read_blocks() if each.language == "text")
    assert len(shown.splitlines()) == 7
    title = "Accounts, in credits: used = invoiced + covered + forgiven + carried"
    for words in ("replayed", "sessions in", title, "pays by", "forgiven", "verify", "offenders", "all of it holds"):
        assert words in shown
        assert words in source

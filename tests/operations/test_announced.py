"""Announcements leave when the task ends that stored them, whatever task it is; other tasks don't look for any."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count

import pytest
from sqlalchemy import Connection, event

from tests.factories import DAY, HOUR, START, call, session_row, team, used
from tests.metering.test_send_reports import ACCOUNT, with_reports
from tests.operations.test_dispatch_outbox import asked_again, full, waiting
from tests.stripe_world.bench import Bench
from usage_tasks.celery import app
from usage_tasks.domain.announcements import AccountParked
from usage_tasks.domain.errors import InvariantError, PermanentError
from usage_tasks.runtime import Runtime
from usage_tasks.storage.announced import take_committed
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.operations import outbox
from usage_tasks.tasks.billing import sync
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS, DECLARATIONS, NEVER, task
from usage_tasks.tasks.usage import accounts, ledger, limits, sessions
from usage_tasks.worker.waiting import ARGUMENT_DIGESTS

pytestmark = pytest.mark.usefixtures("broker")

NUMBERS = count(1)
AT = (START + DAY).isoformat()
ASKED = {"attribution_id": team(), "actor": "service:tests", "at": AT}


@pytest.fixture(autouse=True)
def nothing_from_earlier_tests() -> None:
    """What another test stored in this process is none of these tests' business."""
    take_committed()


def announce(connection: Connection, key: str = "a") -> None:
    message = AccountParked(attribution_id=team(), reason="why", quantity=None, as_of=None, at=START)
    outbox.announce(connection, message, once_per=key)


def store(rt: Runtime) -> None:
    with rt.transaction() as connection:
        announce(connection)


def store_and_fail(rt: Runtime) -> None:
    store(rt)
    raise InvariantError("after the commit")


def store_in_a_thread(rt: Runtime) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store, rt).result()


def store_in_a_savepoint(rt: Runtime) -> None:
    with rt.transaction() as connection, connection.begin_nested():
        announce(connection)


def store_before_a_savepoint_that_is_undone(rt: Runtime) -> None:
    with rt.transaction() as connection:
        announce(connection)
        with rehearsal(connection):
            announce(connection, "b")


def store_at_the_second_attempt(rt: Runtime) -> None:
    roll_back(rt)
    store(rt)


def read(rt: Runtime) -> None:
    with rt.transaction() as connection:
        assert not outbox.is_any_waiting(connection)


def roll_back(rt: Runtime) -> None:
    with suppress(ZeroDivisionError), rt.transaction() as connection:
        announce(connection)
        raise ZeroDivisionError


def roll_back_and_read_on_the_same_connection(rt: Runtime) -> None:
    roll_back(rt)
    read(rt)


@contextmanager
def looks(rt: Runtime) -> Iterator[list[str]]:
    """Every look meanwhile for announcements that wait."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "FROM outbox WHERE dispatched_at IS NULL" in statement:
            found.append(statement)

    event.listen(rt.database._engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(rt.database._engine, "before_cursor_execute", note)


RunAsTask = Callable[..., None]


@pytest.fixture
def run_as_task(rt: Runtime) -> Iterator[RunAsTask]:
    """Run functions one after the other as a task that exists for this test only."""
    steps: list[Sequence[Callable[[Runtime], None]]] = []
    name = f"usage.tested_{next(NUMBERS)}"  # a thread that is new to Celery finds those of earlier tests too

    @task(name=name, time_limit=timedelta(minutes=1), retry=NEVER)
    def run() -> None:
        for step in steps.pop():
            step(rt)

    def started(*functions: Callable[[Runtime], None]) -> None:
        steps.append(functions)
        call(run)

    yield started
    app.tasks.pop(name)
    for known in (ARGUMENT_SCHEMAS, ARGUMENT_DIGESTS, DECLARATIONS):
        known.pop(name)


@pytest.mark.holds("limits.dispatched")
@pytest.mark.parametrize(
    "stores",
    [
        store,
        store_in_a_thread,
        store_in_a_savepoint,
        store_before_a_savepoint_that_is_undone,
        store_at_the_second_attempt,
    ],
)
def test_what_a_task_stored_is_asked_for_when_the_task_ends(
    rt: Runtime, run_as_task: RunAsTask, stores: Callable[[Runtime], None]
) -> None:
    run_as_task(stores)
    assert (waiting(rt), asked_again(rt)) == (1, 1)


@pytest.mark.holds("limits.dispatched")
def test_what_a_task_stored_before_it_failed_is_asked_for(rt: Runtime, run_as_task: RunAsTask) -> None:
    with pytest.raises(InvariantError, match="after the commit"):
        run_as_task(store_and_fail)
    assert (waiting(rt), asked_again(rt)) == (1, 1)


@pytest.mark.parametrize("works", [read, roll_back, roll_back_and_read_on_the_same_connection])
def test_a_task_that_stored_nothing_does_not_look(
    rt: Runtime, run_as_task: RunAsTask, works: Callable[[Runtime], None]
) -> None:
    with looks(rt) as found:
        run_as_task(works)
    assert len(found) == (0 if works is roll_back else 1), "the look of the task itself"
    assert asked_again(rt) == 0


def test_the_next_task_of_the_process_does_not_look_again(rt: Runtime, run_as_task: RunAsTask) -> None:
    run_as_task(store)
    with looks(rt) as found:
        run_as_task(lambda _: None)
    assert found == []


def end_another_task_in_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call, limits.check_entitlement, **ASKED).result()


def test_of_tasks_in_threads_of_one_process_the_first_that_ends_asks_for_all(
    rt: Runtime, run_as_task: RunAsTask
) -> None:
    def meet_another(rt: Runtime) -> None:
        end_another_task_in_a_thread()
        assert (waiting(rt), asked_again(rt)) == (1, 1)

    run_as_task(store, meet_another)
    assert (waiting(rt), asked_again(rt)) == (1, 1)


def test_a_task_in_another_thread_does_not_take_what_is_not_committed(rt: Runtime, run_as_task: RunAsTask) -> None:
    def store_slowly(rt: Runtime) -> None:
        with rt.transaction() as connection:
            announce(connection)
            end_another_task_in_a_thread()
        assert asked_again(rt) == 0

    run_as_task(store_slowly)
    assert (waiting(rt), asked_again(rt)) == (1, 1)


def test_the_tasks_that_are_called_most_do_not_look(rt: Runtime) -> None:
    row = session_row(stopped_at=(START + HOUR).isoformat())
    with looks(rt) as found:
        assert call(sessions.record_instances, instances=[row], actor="service:tests", at=AT)["inserted"] == 1
        assert call(accounts.get_balance, **ASKED)["balance_cents"] > 0
        assert call(limits.check_entitlement, **ASKED)["may_start"]
    assert found == []


def test_the_ledger_job_has_the_limits_announced_that_it_found_reached(rt: Runtime) -> None:
    call(ledger.reconcile_usage, at=START.isoformat())
    assert asked_again(rt) == 0
    with rt.transaction() as connection:
        used(connection, team(), 50_000, at=START + DAY)
    call(ledger.reconcile_usage, at=AT)
    assert (waiting(rt), asked_again(rt)) == (4, 1)
    call(ledger.reconcile_usage, at=AT)
    assert (waiting(rt), asked_again(rt)) == (4, 1)


@pytest.mark.holds("limits.dispatched")
def test_a_run_that_parks_a_report_and_fails_for_it_has_that_announced(bench: Bench, rt: Runtime) -> None:
    customers = with_reports(bench, ACCOUNT)
    bench.world.v1.customers.delete(customers[ACCOUNT])
    take_committed()
    with pytest.raises(PermanentError, match="1 parked"):
        call(sync.send_meter_events)
    assert (waiting(rt), asked_again(rt)) == (1, 1)


def test_that_the_broker_cannot_be_asked_fails_no_task(rt: Runtime, run_as_task: RunAsTask) -> None:
    with full(rt):
        run_as_task(store)
    assert (waiting(rt), asked_again(rt)) == (1, 0)

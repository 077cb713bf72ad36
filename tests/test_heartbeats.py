"""Heartbeat files: one a process, whatever its name; what is no heartbeat is one line."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.embedded.conftest import ROOT
from usage_tasks.health import LIVE_SECONDS_MAX, STALLED_SECONDS_MAX, check_heartbeats, main
from usage_tasks.heartbeats import BEAT_SECONDS, Trouble, list_files, read_heartbeat, replace_dead, write_heartbeat

PROGRAM = """
import sys, time
from pathlib import Path
from usage_tasks.heartbeats import remove_heartbeat, replace_dead, write_heartbeat
directory, queue = Path(sys.argv[1]), sys.argv[2]
write_heartbeat(directory, "worker", "celery@vm", broker=("127.0.0.1", 1), queues=[queue])
print(replace_dead(directory, "worker", "celery@vm", [queue]), flush=True)
sys.stdin.read()
remove_heartbeat(directory, "worker", "celery@vm")
"""
ALL = pytest.mark.parametrize("live", [False, True])


def start(directory: Path, queue: str) -> tuple[subprocess.Popen[str], bool]:
    """Start a process that writes a heartbeat and waits; return it, and whether it replaced a dead one."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory), queue],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline() == "True\n"


def stop(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.communicate(timeout=10)


def problems(directory: Path, *, live: bool = False) -> dict[str, str | None]:
    return dict(check_heartbeats(directory, "worker", live=live))


def rewrite(directory: Path, **values: object) -> Path:
    """Change the only heartbeat."""
    (file,) = list_files(directory, "worker")
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return file


@ALL
def test_of_three_workers_with_one_name_the_dead_one_is_named_with_its_queues(tmp_path: Path, *, live: bool) -> None:
    workers = [start(tmp_path, queue)[0] for queue in ("usage", "billing", "maintenance")]
    assert list(problems(tmp_path, live=live).values()) == [None, None, None]
    workers[0].kill()
    workers[0].wait(10)
    (wrong,) = [(name, problem) for name, problem in problems(tmp_path, live=live).items() if problem]
    assert wrong[0] == f"worker.celery@vm (queues usage, pid {workers[0].pid})"
    assert f"process {workers[0].pid} is gone: start it again, or remove {tmp_path}" in wrong[1]
    stop(*workers[1:])
    assert len(problems(tmp_path)) == 1  # a clean stop takes its own file and no other


def test_a_process_that_ended_and_that_nobody_has_waited_for_is_gone(tmp_path: Path) -> None:
    worker, _ = start(tmp_path, "usage")
    worker.kill()
    while Path(f"/proc/{worker.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert "is gone" in str(problems(tmp_path))
    worker.wait(10)


def test_a_successor_takes_one_dead_process_s_place_and_a_sibling_takes_none(tmp_path: Path) -> None:
    (first, _), (second, _) = start(tmp_path, "usage"), start(tmp_path, "usage")
    other, replaced = start(tmp_path, "usage")
    assert not replaced
    for process in (first, second):
        process.kill()
        process.wait(10)
    assert not replace_dead(tmp_path, "worker", "celery@vm", ["usage"])  # this process began before they died
    assert len(problems(tmp_path)) == 3
    of_other_queues, replaced = start(tmp_path, "billing")
    assert not replaced
    for left in (3, 3, 4):  # a successor for each, and one more worker
        successor, replaced = start(tmp_path, "usage")
        assert replaced is (left == 3)
        stop(successor)
    assert set(problems(tmp_path).values()) == {None}
    stop(other, of_other_queues)


def test_a_number_that_another_process_has_now_is_not_taken_for_the_dead_one(tmp_path: Path) -> None:
    write_heartbeat(tmp_path, "worker", "usage@here", broker=())
    rewrite(tmp_path, started=1)
    assert "is gone" in str(problems(tmp_path))


def test_a_process_of_another_container_is_judged_by_its_heartbeat_alone(tmp_path: Path) -> None:
    write_heartbeat(tmp_path, "worker", "usage@here", broker=("127.0.0.1", 1))
    rewrite(tmp_path, namespace="pid:[1]", pid=1, started=1)
    assert list(problems(tmp_path).values()) == [None]
    rewrite(tmp_path, beat_at=time.monotonic() - 20)
    assert "20 s old" in str(problems(tmp_path))


def test_a_process_of_before_the_machine_was_started_is_gone_whoever_has_its_number(tmp_path: Path) -> None:
    write_heartbeat(tmp_path, "worker", "usage@here", broker=())
    rewrite(tmp_path, boot="another")
    assert "is gone" in str(problems(tmp_path, live=True))


def test_a_file_of_an_earlier_version_beside_is_read_and_replaced(tmp_path: Path) -> None:
    old = tmp_path / "worker.celery@vm.json"
    old.write_text(json.dumps({"pid": os.getpid(), "broker": ["127.0.0.1", 1], "beat_at": time.monotonic()}))
    worker, replaced = start(tmp_path, "usage")
    assert (replaced, list(problems(tmp_path).values())) == (False, [None, None])
    old.write_text(json.dumps({"pid": 1 << 30, "broker": [], "beat_at": time.monotonic()}))
    assert "is gone" in str(problems(tmp_path))
    successor, replaced = start(tmp_path, "usage")
    assert replaced
    stop(worker, successor)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"pid": 12',
        b"[]",
        b"null",
        b"7",
        b"NaN",
        b"[" * 50_000,
        b"\xff\xfe\x00",
        b'{"pid": 0}',
        b'{"pid": -1}',
        b'{"pid": true}',
        b'{"pid": "12"}',
        b'{"pid": 1e999}',
        b'{"pid": ' + b"9" * 400 + b"}",
        b'{"pid": ' + b"9" * 5_000 + b"}",
        b'{"pid": 1, "beat_at": NaN}',
        b'{"pid": 1, "beat_at": 1e999}',
        b'{"pid": 1, "beat_at": ' + b"9" * 400 + b"}",
        b'{"pid": 1, "beat_at": "x"}',
        b'{"pid": 1, "broker": 5}',
        b'{"pid": 1, "broker": ["a", 70000]}',
        b'{"pid": 1, "broker": ["a\\u0000b", 7]}',
        b'{"pid": 1, "queues": 5}',
        b'{"pid": 1, "name": ["x"]}',
        b'{"pid": 1, "troubles": [["x"]]}',
        b'{"pid": 1, "troubles": [["x", NaN]]}',
        b'{"pid": 1, "database": [["x"]]}',
        b'{"pid": 1, "due_at": []}',
        b" " * 100_000,
    ],
    ids=lambda content: content[:30].decode(errors="replace"),
)
@ALL
def test_a_file_that_is_no_heartbeat_is_one_line_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, *, live: bool
) -> None:
    (tmp_path / "worker.foreign.json").write_bytes(content)
    write_heartbeat(tmp_path, "worker", "usage@here", broker=())
    arguments = ["worker", "--live"] if live else ["worker"]
    assert main(arguments, {"USAGE_HEARTBEAT_DIR": str(tmp_path)}) == 1
    foreign, ours = capsys.readouterr().out.splitlines()
    assert foreign.startswith("worker.foreign: its heartbeat cannot be read: ")
    assert f"remove {tmp_path}" in foreign
    assert ours.endswith(": ok")


@pytest.mark.timeout(20)
def test_a_pipe_or_a_directory_of_that_name_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "worker.pipe.json")
    (tmp_path / "worker.directory.json").mkdir()
    assert list(problems(tmp_path)) == ["worker.directory", "worker.pipe"]
    assert None not in problems(tmp_path).values()


def test_a_name_that_is_no_file_name_has_a_file_and_one_line(tmp_path: Path) -> None:
    write_heartbeat(tmp_path, "worker", "a/b\nc@here", broker=(), queues=["x"])
    assert list(problems(tmp_path)) == [f"worker.a/b?c@here (queues x, pid {os.getpid()})"]


@pytest.mark.parametrize(("seconds", "ready", "alive"), [(29, True, True), (31, False, True), (121, False, False)])
def test_what_stands_still_counts_after_a_while_and_later_for_a_restart(
    tmp_path: Path, seconds: float, *, ready: bool, alive: bool
) -> None:
    with answering(b"+PONG\r\n") as port:
        trouble = Trouble("it takes nothing: restart it", seconds)
        write_heartbeat(tmp_path, "worker", "usage@here", broker=("127.0.0.1", port), troubles=[trouble])
        for live, holds in ((False, ready), (True, alive)):
            (problem,) = problems(tmp_path, live=live).values()
            assert problem == (None if holds else f"for {seconds} s it takes nothing: restart it")


@pytest.mark.parametrize(("due", "ready"), [(10, True), (-STALLED_SECONDS_MAX - 1, False), (86_400, True)])
def test_a_beat_whose_tick_is_due_and_not_sent_is_not_ready(tmp_path: Path, due: float, *, ready: bool) -> None:
    now = time.monotonic()
    write_heartbeat(tmp_path, "beat", "beat@here", broker=(), due_at=now + due, sent_at=now - 40)
    ((_, problem),) = check_heartbeats(tmp_path, "beat", live=False)
    assert (problem is None) is ready
    assert ready or str(problem).startswith("for 31 s a tick has been due and is not sent (its last tick 40 s ago)")


def test_a_loop_that_runs_a_task_itself_may_be_silent_until_the_task_s_limit(tmp_path: Path) -> None:
    now = time.monotonic()
    write_heartbeat(tmp_path, "worker", "solo@here", broker=(), busy_until=now + 300)
    rewrite(tmp_path, beat_at=now - 200)
    for live in (False, True):
        assert list(problems(tmp_path, live=live).values()) == [None]
    rewrite(tmp_path, busy_until=now - 20)
    assert "20 s old" in str(problems(tmp_path))


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """A server that gives one answer to everything, or takes connections and is silent; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            kept: list[Any] = []
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.append(connection)
                if answer is not None:
                    connection.recv(64)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "alive"), [(b"+PONG\r\n", False), (b"-NOAUTH\r\n", False), (None, True), (b"-LOADING\r\n", True)]
)
def test_silence_is_forgiven_while_the_broker_takes_connections_and_answers_nothing(
    tmp_path: Path, answer: bytes | None, *, alive: bool
) -> None:
    with answering(answer) as port:
        write_heartbeat(tmp_path, "worker", "usage@here", broker=("127.0.0.1", port))
        rewrite(tmp_path, beat_at=time.monotonic() - LIVE_SECONDS_MAX - BEAT_SECONDS)
        assert (list(problems(tmp_path, live=True).values()) == [None]) is alive


@pytest.mark.parametrize(("answer", "ready"), [(b"S", True), (b"N", True), (None, False)])
def test_a_worker_whose_database_is_silent_is_alive_and_not_ready(
    tmp_path: Path, answer: bytes | None, *, ready: bool
) -> None:
    with answering(answer) as port:
        write_heartbeat(tmp_path, "worker", "usage@here", broker=(), database=[("127.0.0.1", port)])
        assert list(problems(tmp_path, live=True).values()) == [None]
        (problem,) = problems(tmp_path).values()
        assert (problem is None) is ready
        assert ready or f"the database does not answer (127.0.0.1:{port})" in str(problem)


def test_the_database_answers_a_probe_and_one_host_of_several_is_enough(tmp_path: Path, database_url: str) -> None:
    port = int(database_url.rpartition(":")[2].partition("/")[0])
    write_heartbeat(tmp_path, "worker", "a@here", broker=(), database=[("127.0.0.1", 1), ("127.0.0.1", port)])
    assert list(problems(tmp_path).values()) == [None]


def test_a_heartbeat_says_who_wrote_it(tmp_path: Path) -> None:
    write_heartbeat(tmp_path, "worker", "usage@here", broker=("h", 6379), queues=["usage"])
    (file,) = list_files(tmp_path, "worker")
    found = read_heartbeat(file)
    assert (found.name, found.queues, found.pid, found.broker) == ("usage@here", ("usage",), os.getpid(), ("h", 6379))

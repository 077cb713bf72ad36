import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

import pytest

from tests.embedded.conftest import Supervise, is_running, wait_until_gone
from usage_tasks.embedded.patience import CLOCK_FACTOR_MAX
from usage_tasks.embedded.processes import (
    LINUX,
    StartError,
    child_process,
    enter_on_free_port,
    free_port,
    scratch_directory,
    wait_for_end,
)

# One write a process: with PYTHONUNBUFFERED, `print` writes a number and its newline apart, and the two would mix.
FAMILY = "import os, signal; os.fork(); os.write(1, b'%d\\n' % os.getpid()); signal.pause()"
# Writes its process id at once, and a second word after so many seconds of a processor.
LABORIOUS = """
import os, sys, time
print(os.getpid(), flush=True)
while time.process_time() < float(sys.argv[1]): pass
print("up", flush=True)
time.sleep(60)
"""
BURN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


def python(
    code: str, log: Path, *, words: int = 0, ready_seconds_max: float = 5, stop_seconds_max: float = 5
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run code until it has written so many words."""
    return child_process(
        [sys.executable, "-c", code],
        name="the snake",
        log=log,
        ready=lambda: len(log.read_text().split()) >= words,
        ready_seconds_max=ready_seconds_max,
        stop_seconds_max=stop_seconds_max,
        advise=lambda output: f"Feed it after {output.split()[-1:]}.",
    )


def test_a_child_writes_both_its_outputs_to_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    with python("import sys; print('out', flush=True); print('err', file=sys.stderr)", log, words=3) as process:
        process.wait()
    assert log.read_text().split() == ["before", "out", "err"]


def test_a_child_leads_a_group_of_its_own_so_that_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    with python("import signal; signal.pause()", tmp_path / "log") as process:
        assert os.getpgid(process.pid) == process.pid != os.getpgrp()


def test_a_child_gets_back_the_signals_that_an_interpreter_ignores(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with child_process(["/bin/sh", "-c", "kill -PIPE $$; echo survived"], name="shell", log=log) as process:
        assert process.wait() == -signal.SIGPIPE
    assert log.read_text() == ""


def test_a_child_that_ends_before_it_is_ready_is_an_error_that_quotes_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier start\n")
    with pytest.raises(StartError) as caught, python("raise SystemExit('no mice')", log, words=99):
        pass
    message = str(caught.value)
    assert "the snake ended with status 1 before it was ready" in message
    assert "| no mice\nFeed it after ['mice']." in message
    assert "of an earlier start" not in message


def test_a_child_that_is_never_ready_is_stopped_and_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    with (
        pytest.raises(StartError, match=r"the snake was not ready after .*0\.5\d* s"),
        python(code, log, words=99, ready_seconds_max=0.5),
    ):
        pass
    assert not is_running(int(log.read_text()))


def test_a_start_that_fails_shows_the_end_of_the_log_and_keeps_its_directory(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = "for n in range(100): print('line', n, flush=True)\nimport signal; signal.pause()"
    with (
        pytest.raises(StartError) as caught,
        scratch_directory("usage-test-") as directory,
        python(code, directory / "log", words=999, ready_seconds_max=1),
    ):
        pass
    assert f"(log: {directory / 'log'})" in str(caught.value)
    assert "line 79\n" not in str(caught.value)
    assert "| line 80\n" in str(caught.value)
    assert "| line 99\n" in str(caught.value)
    assert (directory / "log").read_text().endswith("line 99\n")
    assert str(directory) in capsys.readouterr().err
    shutil.rmtree(directory)


@pytest.mark.parametrize("end", [None, KeyboardInterrupt, SystemExit])
def test_a_scratch_directory_is_removed_when_nothing_failed(end: type[BaseException] | None) -> None:
    with suppress(KeyboardInterrupt, SystemExit), scratch_directory("usage-test-") as directory:
        (directory / "log").write_text("well\n")
        if end is not None:
            raise end
    assert not directory.exists()


@pytest.mark.skipif(not LINUX, reason="only Linux shows what a process could use")
def test_a_child_that_waits_for_a_processor_gets_longer(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processor = min(os.sched_getaffinity(0))
    with ExitStack() as stack:
        for number in range(4):
            burner = [sys.executable, "-c", BURN, str(processor)]
            stack.enter_context(child_process(burner, name="burner", log=tmp_path / f"burner-{number}"))
        began = time.monotonic()
        pinned = f"import os; os.sched_setaffinity(0, {{{processor}}}){LABORIOUS}"
        child = child_process(
            [sys.executable, "-c", pinned, "0.6"],
            name="the ox",
            log=log,
            ready=lambda: "up" in log.read_text(),
            ready_seconds_max=2,
        )
        stack.enter_context(child)
        # One of five on a processor: its 0.6 s are about 3 s by the clock.
        assert 2 < time.monotonic() - began < 2 * CLOCK_FACTOR_MAX


@pytest.mark.skipif(not LINUX, reason="only Linux shows that a process is stopped")
def test_the_time_in_which_a_child_is_stopped_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupt() -> None:
        while not log.exists() or not log.read_text():
            time.sleep(0.01)
        os.kill(int(log.read_text()), signal.SIGSTOP)
        time.sleep(2)
        os.kill(int(log.read_text().split()[0]), signal.SIGCONT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    began = time.monotonic()
    with child_process(
        [sys.executable, "-c", LABORIOUS, "0.3"],
        name="the sleeper",
        log=log,
        ready=lambda: "up" in log.read_text(),
        ready_seconds_max=1,
    ):
        assert time.monotonic() - began > 2
    interrupting.join()


@pytest.mark.skipif(not LINUX, reason="only Linux shows what a process could use")
def test_a_child_that_never_goes_on_is_given_up_by_the_clock(tmp_path: Path) -> None:
    code = "import os, signal; print('stopping', flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    began = time.monotonic()
    with (
        pytest.raises(StartError, match=r"was not ready after [\d.]+ s, of which it could use .*load") as caught,
        python(code, tmp_path / "log", words=9, ready_seconds_max=0.1, stop_seconds_max=0.1),
    ):
        pass
    assert "| stopping\n" in str(caught.value)
    assert 0.1 * CLOCK_FACTOR_MAX < time.monotonic() - began < 10


def test_the_end_of_a_process_is_waited_for_in_its_own_time(tmp_path: Path) -> None:
    with python("raise SystemExit(3)", tmp_path / "ending") as process:
        assert wait_for_end(process, seconds_max=5) == 3
    with python("import signal; signal.pause()", tmp_path / "waiting") as process:
        assert wait_for_end(process, seconds_max=0.3) is None


def test_a_command_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with (
        pytest.raises(StartError, match=f"cannot run {missing}: No such file"),
        child_process([missing], name="missing", log=tmp_path / "log", ready=lambda: False),
    ):
        pass


def test_a_log_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match=r"nobody has no log: .*No such file"),
        child_process(["true"], name="nobody", log=tmp_path / "missing" / "log"),
    ):
        pass


def test_a_child_that_ignores_the_stop_signal_is_killed(tmp_path: Path) -> None:
    with python(STUBBORN, tmp_path / "log", words=1, stop_seconds_max=0.2) as process:
        pass
    assert process.returncode == -signal.SIGKILL


def test_what_an_ended_child_leaves_in_its_group_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with python(FAMILY, log, words=2) as process:
        process.kill()
        process.wait()
    wait_until_gone({"pids": [int(pid) for pid in log.read_text().split()]})


def test_an_exception_in_the_block_stops_the_child(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), python("import signal; signal.pause()", tmp_path / "log") as process:
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_guarded_child_goes_with_its_supervisor_and_takes_its_group_along(
    supervise: Supervise, tmp_path: Path, number: signal.Signals
) -> None:
    supervisor, said = supervise(tmp_path, "guarded")
    supervisor.send_signal(number)
    supervisor.wait()
    wait_until_gone(said)


@pytest.mark.skipif(not LINUX, reason="only Linux has a death signal; elsewhere every child is guarded")
def test_a_child_goes_with_its_killed_supervisor(supervise: Supervise, tmp_path: Path) -> None:
    supervisor, said = supervise(tmp_path, "unguarded")
    leader = min(said["pids"])
    supervisor.kill()
    supervisor.wait()
    wait_until_gone({"pids": [leader]})
    for straggler in set(said["pids"]) - {leader}:
        os.kill(straggler, signal.SIGKILL)


def test_another_port_is_tried_when_somebody_was_faster(tmp_path: Path) -> None:
    listen = "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', {})); print('up', flush=True); s.accept()"
    with socket.socket() as rival, ExitStack() as stack:
        rival.bind(("127.0.0.1", 0))
        rival.listen()
        taken, free = rival.getsockname()[1], free_port()
        ports = iter([taken, taken, free])

        def start(port: int) -> AbstractContextManager[object]:
            log = tmp_path / str(port)
            return child_process(
                [sys.executable, "-c", listen.format(port)],
                name="listener",
                log=log,
                ready=lambda: "up" in log.read_text(),
            )

        assert enter_on_free_port(stack, start, ports=lambda: next(ports)) == free


def test_a_port_that_is_always_taken_is_an_error_after_a_few_attempts(tmp_path: Path) -> None:
    asked: list[int] = []

    def ports() -> int:
        asked.append(1)
        return 1

    def start(_port: int) -> AbstractContextManager[object]:
        code = "raise SystemExit('Address already in use')"
        return child_process([sys.executable, "-c", code], name="x", log=tmp_path / "log", ready=lambda: False)

    with ExitStack() as stack, pytest.raises(StartError, match="Address already in use"):
        enter_on_free_port(stack, start, ports=ports)
    assert len(asked) == 5

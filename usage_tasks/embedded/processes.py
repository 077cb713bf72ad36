"""Child processes that never outlive their supervisor."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import IO, Final, Protocol

from usage_tasks.embedded.patience import Patience

LAUNCH: Final = Path(__file__).with_name("launch.py")
LINUX: Final = sys.platform.startswith("linux")
POLL_SECONDS: Final = 0.01
TAIL_BYTES_MAX: Final = 8000
TAIL_LINES_MAX: Final = 20
PORT_ATTEMPTS_MAX: Final = 5


class StartError(Exception):
    """A program could not be started. The message names it, quotes the end of its log and gives advice."""

    def __init__(self, problem: str, *, advice: str, output: str = "") -> None:
        parts = (problem, textwrap.indent(output, "  | "), advice)
        super().__init__("\n".join(part for part in parts if part))
        self.output = output


class Identity(StrEnum):
    """As whom a child runs. The last two are for root only, and for a server that refuses root."""

    SAME = "same"
    NAMESPACE = "namespace"
    NOBODY = "nobody"


class Launcher(Protocol):
    """Begins a child: `arguments` are those of launch.py, with the command at their end."""

    def __call__(
        self,
        arguments: Sequence[str],
        *,
        output: IO[bytes],
        environment: Mapping[str, str] | None,
        inherited: Sequence[int],
    ) -> subprocess.Popen[bytes]:
        """Begin it as a child of the calling process, and as the leader of a process group."""
        ...


def launch(
    arguments: Sequence[str],
    *,
    output: IO[bytes],
    environment: Mapping[str, str] | None,
    inherited: Sequence[int],
) -> subprocess.Popen[bytes]:
    """Begin a child by launch.py: it, not a preexec_fn, prepares the child, and then becomes the command; see there."""
    return subprocess.Popen(  # noqa: S603  # an argument list of our own, no shell
        [sys.executable, "-I", "-S", str(LAUNCH), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=None if environment is None else dict(environment),
        pass_fds=inherited,
        process_group=0,
    )


def free_port() -> int:
    """Find a loopback port that nobody listens on just now; it may be taken before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def child_process(
    arguments: Sequence[str],
    *,
    name: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    ready: Callable[[], bool] = lambda: True,
    ready_seconds_max: float = 20,
    stop_signal: signal.Signals = signal.SIGTERM,
    stop_seconds_max: float = 15,
    orphan_signal: signal.Signals = signal.SIGKILL,
    advise: Callable[[str], str] = lambda _output: "Its log has more.",
    identity: Identity = Identity.SAME,
    keep_open: Sequence[int] = (),
    guarded: bool = not LINUX,
    launcher: Launcher = launch,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as a process group of its own, from `ready` until the block ends.

    Output is appended to `log`. Ctrl-C reaches only the supervisor. At the end the command gets `stop_signal`, and
    its group SIGKILL once it has ended or `stop_seconds_max` are over.

    If the supervisor is killed, the command gets `orphan_signal`. A gentler signal than SIGKILL is for commands that
    then end soon (a Celery worker first finishes its tasks). On Linux the kernel sends it, to the command only, when
    the *thread* that entered the block ends: enter it in a thread that outlives the block. Elsewhere, or if `guarded`,
    a small process waits for the supervisor's end, signals the whole group, and kills it 15 s later.

    `ready_seconds_max` is the command's own time: on a busy machine it lasts longer by the clock (`patience`).

    `advise` turns the end of the log into what a reader of the StartError should do. Raises StartError.
    """
    with ExitStack() as stack:
        output = stack.enter_context(_opened_log(log, name=name))
        log_start = output.tell()
        guard = stack.enter_context(_guard_pipe()) if guarded else None
        binding = [str(os.getpid()), str(int(orphan_signal)), identity, "-" if guard is None else str(guard)]
        inherited = [*keep_open, *(() if guard is None else (guard,))]
        process = launcher([*binding, *arguments], output=output, environment=environment, inherited=inherited)
        try:
            problem = _await_ready(process, ready, seconds_max=ready_seconds_max)
            if problem:
                tail = log_tail(log, start=log_start)
                raise StartError(f"{name} {problem} (log: {log})", output=tail, advice=advise(tail))
            yield process
        finally:
            _stop(process, stop_signal, seconds_max=stop_seconds_max)


def enter_on_free_port(
    stack: ExitStack, start: Callable[[int], AbstractContextManager[object]], *, ports: Callable[[], int]
) -> int:
    """Enter `start(port)` on the stack; with another port, a few times, when somebody was faster to take it."""
    for attempts_left in reversed(range(PORT_ATTEMPTS_MAX)):
        port = ports()
        try:
            stack.enter_context(start(port))
        except StartError as error:
            if not attempts_left or "address already in use" not in error.output.lower():
                raise
        else:
            return port
    raise AssertionError("unreachable: the last attempt returns or raises")


def wait_for_end(process: subprocess.Popen[bytes], *, seconds_max: float) -> int | None:
    """Return the exit status of a process; None if it has not ended in so much of its own time."""
    patience = Patience(process.pid, seconds_max=seconds_max)
    while (status := process.poll()) is None and not patience.is_over():
        time.sleep(POLL_SECONDS)
    return status


@contextmanager
def scratch_directory(prefix: str) -> Iterator[Path]:
    """Make a temporary directory and remove it at the end; after an error it stays, for it holds the logs."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    except Exception:
        sys.stderr.write(f"kept, for the logs in it: {directory}\n")
        raise
    except BaseException:  # interrupted: there is nothing to look for
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Return True if a process with this id exists, of any owner."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def log_tail(log: Path, *, start: int = 0) -> str:
    """Read the last lines of what was written to the log since the offset `start`."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - TAIL_BYTES_MAX))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES_MAX:])


@contextmanager
def _opened_log(log: Path, *, name: str) -> Iterator[IO[bytes]]:
    try:
        file = log.open("ab")
    except OSError as error:
        advice = "Make its directory, and make it writable for the user who runs this."
        raise StartError(f"{name} has no log: {error}", advice=advice) from error
    with file:
        yield file


@contextmanager
def _guard_pipe() -> Iterator[int]:
    """Yield the end of a pipe on which a guard hears a byte (all is well) or the end (the supervisor died)."""
    reader, writer = os.pipe()
    try:
        yield reader
    finally:
        with suppress(BrokenPipeError):
            os.write(writer, b".")
        os.close(reader)
        os.close(writer)


def _await_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool], *, seconds_max: float) -> str | None:
    """Wait until `ready`; return what went wrong instead, if something did."""
    patience = Patience(process.pid, seconds_max=seconds_max)
    while not ready():
        if process.poll() is not None:
            return f"ended with status {process.returncode} before it was ready"
        if patience.is_over():
            return f"was not ready after {patience.describe()}"
        time.sleep(POLL_SECONDS)
    return None


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals, *, seconds_max: float) -> None:
    try:
        if process.poll() is None:
            process.send_signal(stop_signal)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds_max)
    finally:
        # Also after a second Ctrl-C.
        _kill_group(process)
        process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # An ended leader may leave members behind, and while they live nobody else gets its id. If the id of an ended
    # one is in use, the group is gone and it is a stranger's.
    if process.returncode is not None and is_alive(process.pid):
        return
    # macOS answers EPERM when only zombies are left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)

"""A program, not a module: prepare the process that it is, then become the command it was given.

    python -I -S launch.py SUPERVISOR_PID ORPHAN_SIGNAL IDENTITY GUARD_DESCRIPTOR command [argument ...]

These steps belong between fork and exec. In a `preexec_fn` they would run in a copy of the supervisor, where a lock
that another thread held at the fork is held for ever; here they run in a fresh interpreter with a single thread.
It knows only the standard library: nothing can be imported from the checkout under `-I -S`.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
NOBODY_ID = 65534
EXIT_CANNOT_RUN = 127
# The time that the guard of an orphaned group leaves it between the signal and SIGKILL.
ORPHAN_SECONDS_MAX = 15
DESCRIPTORS_MAX = 65536


def main(supervisor: str, orphan_signal: str, identity: str, guard: str, *command: str) -> None:
    """Become `command` as `identity`, bound to the life of the process `supervisor`."""
    _reset_signals()
    if identity == "namespace":
        _enter_user_namespace()
    elif identity == "nobody":
        _become_nobody()
    # Only now: a change of credentials clears the death signal, and the guard needs the right to kill.
    if guard == "-":
        _die_with(int(supervisor), int(orphan_signal))
    else:
        _start_guard(int(guard), int(orphan_signal))
    try:
        os.execvp(command[0], command)  # noqa: S606  # the supervisor's own argument list, no shell
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.exit(EXIT_CANNOT_RUN)


def _reset_signals() -> None:
    # An interpreter ignores SIGPIPE and SIGXFSZ, a shell's background job SIGINT, and exec would keep it so.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _enter_user_namespace() -> None:
    """Look like uid 1000 to a server that refuses root, with root's files still our own."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER):
        sys.exit(f"no user namespace: {os.strerror(ctypes.get_errno())}")
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"1000 {user} 1")
        Path("/proc/self/gid_map").write_text(f"1000 {group} 1")
    except OSError as error:
        sys.exit(f"no user namespace: {error}")


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY_ID)
    os.setuid(NOBODY_ID)


def _die_with(supervisor: int, orphan_signal: int) -> None:
    """Have the kernel send `orphan_signal` when the thread that started us ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, orphan_signal):
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    # The supervisor may have died before the kernel began to watch it.
    if os.getppid() != supervisor:
        sys.exit("the supervisor is gone")


def _start_guard(pipe: int, orphan_signal: int) -> None:
    """Leave a process behind that stops our group once the supervisor's end of `pipe` closes.

    Forked twice, so that it is not a child of the command, which may wait for children it does not know.
    """
    group = os.getpgrp()
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        os.close(pipe)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    # The guard must not hold the files that the command keeps open, a directory's lock above all.
    os.closerange(3, pipe)
    os.closerange(pipe + 1, DESCRIPTORS_MAX)
    if not os.read(pipe, 1):
        _stop_group(group, orphan_signal)
    os._exit(0)


def _stop_group(group: int, orphan_signal: int) -> None:
    try:
        os.killpg(group, orphan_signal)
        give_up_at = time.monotonic() + ORPHAN_SECONDS_MAX
        while time.monotonic() < give_up_at:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
    except OSError:
        return  # Nobody of the group is left.


if __name__ == "__main__":
    main(*sys.argv[1:])

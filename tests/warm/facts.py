"""`python -m tests.warm.facts ...`: print, as JSON, what a process can see of how it was started."""

import ctypes
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

PR_GET_PDEATHSIG = 2


def observe() -> dict[str, Any]:
    """Return what must not depend on how this process was started."""
    orphan_signal = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(orphan_signal))
    descriptors = {each: str(Path(f"/proc/self/fd/{each}").readlink()) for each in range(3)}
    beside = [each for each in Path("/proc/self/fd").iterdir() if int(each.name) > 2 and each.exists()]
    return {
        "arguments": sys.argv,
        "shown": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(),
        "environment": dict(os.environ),
        "in C": {name: ctypes.string_at(ctypes.pythonapi.getenv(name.encode())).decode() for name in ("MARK",)},
        "directory": str(Path.cwd()),
        "path": sys.path,
        "main": [__name__, __spec__.name, sys.modules["__main__"] is sys.modules[__name__]],
        "signals": {int(each): str(signal.getsignal(each)).partition(" at ")[0] for each in signal.valid_signals()},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "descriptors": descriptors,
        "beside": len(beside),
        "leads": os.getpgrp() == os.getpid(),
        "session": os.getsid(0),
        "parent": os.getppid(),
        "orphan signal": orphan_signal.value,
        "threads": threading.active_count(),
        "buffered": [sys.stdout.isatty(), sys.stdout.encoding],
    }


if __name__ == "__main__":
    ctypes.pythonapi.getenv.restype = ctypes.c_void_p
    print(json.dumps(observe()))  # noqa: T201
    sys.exit(int(sys.argv[1]))

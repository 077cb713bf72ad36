"""A process whose host shows another time: `python -m tests.chaos.host_clock FILE celery -A ...`.

FILE holds the seconds by which its clock is ahead; a new number in it is a jump. The clocks of the database, of Redis
and of monotonic time stay as they are. `time.time` and `datetime` are replaced in the modules of Celery, kombu and this
package that have imported them, and in the module `time`; children of a worker are forks of it and inherit that. It
needs no further package, such as libfaketime.
"""

import importlib
import pkgutil
import runpy
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Final

OURS: Final = ("celery", "kombu", "usage_tasks")
PACKAGES: Final = ("celery.app", "celery.worker", "celery.worker.consumer", "celery.utils")
MODULES: Final = (
    "celery.beat",
    "celery.concurrency.prefork",
    "celery.schedules",
    "kombu.asynchronous.hub",
    "kombu.asynchronous.timer",
    "kombu.transport.redis",
    "usage_tasks.coordination.celery_internals.request",
    "usage_tasks.worker.broker_time",
    "usage_tasks.worker.beat",
)
_true_time: Final = time.time


class _Asked(type):
    """`isinstance(x, datetime)` stays true of every datetime."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, datetime)


def shift(file: Path) -> None:
    """Set this process's clock by a file from now on."""

    def shown() -> float:
        return _true_time() + float(file.read_text())

    class Shifted(datetime, metaclass=_Asked):
        """A datetime, but for what it takes to be now."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return datetime(*args, **kwargs)  # noqa: DTZ001 - what the caller says

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.fromtimestamp(shown(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return datetime.fromtimestamp(shown(), UTC).replace(tzinfo=None)

    _load()
    time.time = shown
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in OURS:
            continue
        for attribute, value in list(vars(module).items()):
            if value is datetime:
                setattr(module, attribute, Shifted)
            elif value is _true_time:
                setattr(module, attribute, shown)


def _load() -> None:
    """Import what a worker and a beat will use: what is imported later would ask the true clock."""
    importlib.import_module("tests.chaos.app").app.loader.import_default_modules()
    within = [each.name for name in PACKAGES for each in pkgutil.iter_modules(_path(name), f"{name}.")]
    for name in [*within, *MODULES]:
        importlib.import_module(name)


def _path(package: str) -> Iterable[str]:
    return importlib.import_module(package).__path__


if __name__ == "__main__":
    shift(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

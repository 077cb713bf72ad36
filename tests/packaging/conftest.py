"""The three wheels, built as pip builds them and unpacked; nothing is asked of an index."""

import os
import site
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PROJECTS: Final = {"usage-tasks": ".", "usage-tasks-client": "client", "usage-tasks-testing": "testing"}
SETTINGS: Final = {
    "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"small": 0.1}',
    "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
    "REDIS_URL": "redis://127.0.0.1:6399/3",
}


@dataclass(frozen=True)
class Wheel:
    """A built wheel: where it is unpacked, the names of its files, its metadata."""

    directory: Path
    files: frozenset[str]
    metadata: Message


def build(project: str, target: Path) -> Wheel:
    """Build a project's wheel and unpack it."""
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=ROOT / PROJECTS[project],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    directory = target / project
    with zipfile.ZipFile(target / done.stdout.split()[-1]) as packed:
        packed.extractall(directory)
        names = frozenset(packed.namelist())
    (metadata,) = directory.glob("*.dist-info/METADATA")
    return Wheel(directory, names, Parser().parsestr(metadata.read_text()))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    """Every distribution of this repository."""
    target = tmp_path_factory.mktemp("wheels")
    return {project: build(project, target) for project in PROJECTS}


@pytest.fixture
def installed(wheels: dict[str, Wheel]) -> dict[str, str]:
    """An environment in which a Python with -S has a production installation: two wheels and the libraries.

    -S leaves out the .pth files, by which a checkout is importable.
    """
    return environment_of(wheels["usage-tasks"], wheels["usage-tasks-client"])


def environment_of(*unpacked: Wheel) -> dict[str, str]:
    """The environment of a Python with -S that has these wheels and the libraries of this one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("USAGE_", "CELERY_"))}
    places = [*(str(wheel.directory) for wheel in unpacked), *site.getsitepackages()]
    return inherited | SETTINGS | {"PYTHONPATH": os.pathsep.join(places), "COLUMNS": "200"}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A platform's directory, with files of its own that are named as ours are."""
    directory = tmp_path / "platform"
    directory.mkdir()
    (directory / "celeryconfig.py").write_text('task_default_queue = "of the platform"\n')
    (directory / "beat_schedule.py").write_text('raise RuntimeError("of the platform")\n')
    return directory


def python(environment: dict[str, str], directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python with -S in a directory."""
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60
    )

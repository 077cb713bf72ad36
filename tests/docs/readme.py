"""README.md as a newcomer types it: its blocks of commands, in one shell, in a copy of the checkout."""

import os
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from usage_tasks.embedded.processes import child_process

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OURS: Final = re.compile(r"_?_?(?:editable_+(?:impl_)?)?usage_tasks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its language and its text."""

    language: str
    text: str


def read_blocks(page: Path = README) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    return [Block(language=language, text=text) for language, text in _BLOCK.findall(page.read_text())]


def find_block(language: str, containing: str) -> str:
    """Return the one block of README.md in a language that contains these words."""
    (found,) = (each.text for each in read_blocks() if each.language == language and containing in each.text)
    return found


def copy_checkout(target: Path) -> Path:
    """Copy the files of this checkout that git knows, as a clone would have them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def give_libraries(environment: Path) -> None:
    """Make this environment's libraries those of a virtual environment: only their download is left out.

    Without the distributions of this repository, and without .pth files, by which this checkout is importable.
    """
    libraries = environment / "libraries"
    libraries.mkdir()
    for folder in filter(Path.is_dir, map(Path, site.getsitepackages())):  # Debian's Python names more than there are
        for each in folder.iterdir():
            if each.suffix != ".pth" and not _OURS.match(each.name):
                (libraries / each.name).symlink_to(each)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{libraries}\n")
    script = environment / "bin" / "celery"
    script.write_text(f"#!{environment}/bin/python\nfrom celery.__main__ import main\nmain()\n")
    script.chmod(0o755)


@dataclass(kw_only=True)
class Shell:
    """A terminal in a directory; a variable that a block exports holds for the next one.

    A new terminal in the same directory has none of these variables.
    """

    directory: Path
    environment: Mapping[str, str]
    processes: ExitStack = field(default_factory=ExitStack)

    @property
    def _state(self) -> Path:
        return self.directory / ".state"

    def run(self, block: str, *, seconds_max: float = 120) -> str:
        """Type a block and return what it printed; a command that fails ends it, and fails the test."""
        return self._type(
            f"[ -e {self._state} ] && . {self._state}\n{block}\nexport -p > {self._state}\n", block, seconds_max
        )

    def run_in_new_terminal(self, line: str, *, seconds_max: float = 120) -> str:
        """Type one line in a new terminal and return what it printed; a failure fails the test."""
        return self._type(line, line, seconds_max)

    def _type(self, script: str, block: str, seconds_max: float) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.directory,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, line: str, *, name: str) -> Callable[[], str]:
        """Type one line in a new terminal, and return a reader of all that it printed."""
        log = self.directory / f"{name}.log"
        before, _, last = line.rpartition("; ")
        command = ["bash", "-e", "-c", f"cd {self.directory}; {before or ':'}; exec {last}"]
        running = child_process(command, name=name, log=log, environment=self.environment, stop_seconds_max=2)
        self.processes.enter_context(running)
        return log.read_text


def make_environment(directory: Path) -> dict[str, str]:
    """Return the variables of a terminal that has nothing but this Python, as `python3`."""
    tools = directory / "tools"
    tools.mkdir()
    (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python3").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("USAGE_", "CELERY_", "VIRTUAL_"))}
    path = os.pathsep.join([str(tools), "/usr/local/bin", "/usr/bin", "/bin"])
    for name in ("DATABASE_URL", "REDIS_URL", "PYTHONPATH"):
        kept.pop(name, None)
    return kept | {"PATH": path, "HOME": str(directory)}

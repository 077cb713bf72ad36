import os
import shutil
from pathlib import Path

import pytest

from tests.server_directory import ABANDONED_SECONDS_MIN, PREFIX, server_directory

LONG_AGO = 10 * ABANDONED_SECONDS_MIN


def make_old(path: Path) -> None:
    """Make a directory look long unused."""
    then = path.stat().st_mtime - LONG_AGO
    os.utime(path, (then, then))


def test_it_is_open_to_every_user_and_gone_afterwards(tmp_path: Path) -> None:
    with server_directory(memory=tmp_path) as directory:
        assert directory.stat().st_mode & 0o777 == 0o755
        (directory / "log").write_text("up")
    assert not directory.exists()


def test_after_an_error_a_copy_is_kept_and_the_error_names_it(tmp_path: Path) -> None:
    def fail() -> None:
        with server_directory(memory=tmp_path) as directory:
            (directory / "log").write_text("out of mice")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failed:
        fail()
    (note,) = failed.value.__notes__
    kept = Path(note.removesuffix(".").rpartition(" ")[2])
    assert (kept / "log").read_text() == "out of mice"
    assert list(tmp_path.iterdir()) == []
    shutil.rmtree(kept)


def test_of_killed_processes_directories_are_removed_and_of_living_ones_not(tmp_path: Path) -> None:
    abandoned, others = tmp_path / f"{PREFIX}abandoned", tmp_path / "of-somebody-else"
    for path in (abandoned, others):
        path.mkdir()
        make_old(path)
    just_made = tmp_path / f"{PREFIX}just-made"
    just_made.mkdir()
    with server_directory(memory=tmp_path) as living:
        make_old(living)
        with server_directory(memory=tmp_path):
            assert [path.exists() for path in (abandoned, others, just_made, living)] == [False, True, True, True]


def test_without_room_in_memory_it_is_on_the_disk(tmp_path: Path) -> None:
    with server_directory(memory=tmp_path / "missing") as directory:
        assert directory.is_dir()

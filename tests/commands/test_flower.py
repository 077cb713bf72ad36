"""Flower behind `usage-tasks flower`: with the password that was set, and with no other."""

import base64
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from usage_tasks.embedded.processes import child_process, free_port

FLOWER = (sys.executable, "-m", "usage_tasks", "flower")
pytestmark = pytest.mark.timeout(60)


def status(port: int, credentials: str | None) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/workers")
    if credentials is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own server
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "credentials",
    [
        "",
        "ops",
        "ops:",
        ":hush-hush",
        "ops:,hush-hush",
        "ops:hunter,2-hush-hush",
        "ops:hush-hush,",
        "ops:a,eve:hush-hush",
        "ops:hush-h\u00fcsh",
        "\u00f6ps:hush-hush",
        "ops:hush\thush",
        "ops:hush\nhush",
    ],
)
def test_credentials_that_flower_would_take_for_others_are_refused(
    environment: dict[str, str], credentials: str
) -> None:
    command = [*FLOWER, f"--port={free_port()}"]
    wrong = environment | {"FLOWER_BASIC_AUTH": credentials}
    done = subprocess.run(command, env=wrong, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("FLOWER_BASIC_AUTH: ")
    assert "hush" not in done.stderr


def test_the_password_that_was_set_lets_in_and_no_other(environment: dict[str, str], tmp_path: Path) -> None:
    password, port = "a:!\"#$%&'()*+-./;<=>?@[\\]^_`{|}~ z", free_port()
    # Somebody else's configuration in the working directory is not Flower's.
    (tmp_path / "flowerconfig.py").write_text("basic_auth = ['eve:eve']\n")
    script = f"import os, sys; os.chdir({str(tmp_path)!r}); os.execv(sys.argv[1], sys.argv[1:])"
    log = tmp_path / "flower.log"
    with child_process(
        [sys.executable, "-c", script, *FLOWER, f"--port={port}"],
        name="flower",
        log=log,
        environment=environment | {"FLOWER_BASIC_AUTH": f"ops:{password}"},
        ready=lambda: log.exists() and "Visit me" in log.read_text(),
        ready_seconds_max=40,
        stop_seconds_max=10,
    ):
        assert status(port, f"ops:{password}") == 200
        for wrong in (None, "ops:", "ops:a", "eve:eve", f"ops:{password} ", f"OPS:{password}", "ops:\u00fc"):
            assert status(port, wrong) in {401, 500}, wrong

"""A production installation, run from a platform's directory: whose files are read, and what is not there."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.factories import START, make_id, session_row
from tests.packaging.conftest import ROOT, Wheel, environment_of, python
from usage_tasks.embedded.processes import child_process, log_tail
from usage_tasks_client import Recorded, record

SHOW = """
import json, usage_tasks.celery
conf = usage_tasks.celery.app.conf
print(json.dumps([usage_tasks.celery.__file__, conf.task_default_queue, conf.broker_url, sorted(conf.beat_schedule)]))
"""


def shown(environment: dict[str, str], directory: Path) -> Any:
    done = python(environment, directory, "-c", SHOW)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def checkout(environment: dict[str, str]) -> dict[str, str]:
    places = [str(ROOT), str(ROOT / "client"), environment["PYTHONPATH"]]
    return environment | {"PYTHONPATH": ":".join(places)}


@pytest.mark.parametrize("place", ["wheel", "checkout"])
def test_a_platforms_own_files_are_not_read(installed: dict[str, str], foreign: Path, place: str) -> None:
    environment = installed if place == "wheel" else checkout(installed)
    file, queue, broker, ticks = shown(environment, foreign)
    assert Path(file).is_relative_to(ROOT) == (place == "checkout")
    assert (queue, broker) == ("maintenance", "redis://127.0.0.1:6399/3")
    assert {"billing.settle_doubts", "maintenance.dispatch_outbox"} <= set(ticks)


@pytest.mark.parametrize("place", ["wheel", "checkout"])
def test_celerys_own_command_reads_ours_too(installed: dict[str, str], foreign: Path, place: str) -> None:
    environment = installed if place == "wheel" else checkout(installed)
    done = python(environment, foreign, "-m", "celery", "-A", "usage_tasks", "report")
    assert "task_default_queue: 'maintenance'" in done.stdout, done.stderr
    assert "of the platform" not in done.stdout


def test_another_module_is_read_where_it_is_named(installed: dict[str, str], foreign: Path) -> None:
    (foreign / "named.py").write_text(
        "from usage_tasks.celery_files.celeryconfig import *\ntask_default_queue = 'usage'\n"
    )
    _, queue, broker, _ = shown(installed | {"CELERY_CONFIG_MODULE": "named"}, foreign)
    assert (queue, broker) == ("usage", "redis://127.0.0.1:6399/3")
    done = python(installed | {"CELERY_CONFIG_MODULE": "celeryconfig"}, foreign, "-c", SHOW)
    assert '"of the platform"' in done.stdout


def test_nothing_of_ours_is_importable_by_a_top_level_name(installed: dict[str, str], tmp_path: Path) -> None:
    for name in ("celeryconfig", "beat_schedule"):
        assert f"No module named '{name}'" in python(installed, tmp_path, "-c", f"import {name}").stderr


def test_the_demo_names_what_it_needs(installed: dict[str, str], foreign: Path) -> None:
    done = python(installed, foreign, "-m", "usage_tasks", "demo")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "install usage-tasks-testing" in done.stderr


def test_the_demo_and_the_stand_in_are_there_with_the_third_wheel(wheels: dict[str, Wheel], tmp_path: Path) -> None:
    environment = environment_of(wheels["usage-tasks"], wheels["usage-tasks-client"])
    # Installers put both wheels into one directory.
    package = tmp_path / "usage_tasks"
    package.mkdir()
    for wheel in (wheels["usage-tasks"], wheels["usage-tasks-testing"]):
        for each in (wheel.directory / "usage_tasks").iterdir():
            (package / each.name).symlink_to(each)
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    load = "from usage_tasks.demo.quarter import load_quarter; print(len(load_quarter()))"
    assert python(environment, tmp_path, "-c", load).stdout == "17900\n"
    refused = python(environment, tmp_path, "-m", "usage_tasks", "demo", "--tick", "1s")
    assert "from 10m to 672h" in refused.stderr
    assert "--frozen-time" in python(environment, tmp_path, "-m", "usage_tasks.stripe_simulator", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [(("--help",), "Usage: usage-tasks"), (("settings",), '"creditsPerMinuteByWorkspaceClass"'), (("schemas",), "at")],
    ids=["help", "settings", "schemas"],
)
def test_the_command_line_works(
    installed: dict[str, str], foreign: Path, arguments: tuple[str, ...], answer: str
) -> None:
    code = f"import sys; sys.argv = ['usage-tasks', *{arguments!r}]; from usage_tasks.__main__ import main; main()"
    done = python(installed, foreign, "-c", code)
    assert (done.returncode, answer in done.stdout) == (0, True), done.stderr


def test_a_worker_with_a_child_records_what_the_client_sends(
    installed: dict[str, str], environment: dict[str, str], foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = foreign / "worker.log"
    monkeypatch.chdir(foreign)
    command = ["-m", "celery", "-A", "usage_tasks", "worker", "--queues=usage", "--pool=prefork", "--concurrency=1"]
    running = environment | {name: installed[name] for name in ("PYTHONPATH",)} | {"USAGE_TEST_CLOCK": "false"}
    url = running["REDIS_URL"]
    app = Celery("platform", broker=url, backend=url, set_as_current=False)
    prefix = {"global_keyprefix": "usage:"}
    app.conf.update(broker_transport_options=prefix, result_backend_transport_options=prefix)
    report = session_row(instance_id=str(make_id("packaged")), observed_at=START)
    with child_process(
        [sys.executable, "-S", *command, "--without-mingle", "--without-gossip", "--loglevel=INFO"],
        name="worker",
        log=log,
        environment=running,
        ready=lambda: log.exists() and " ready." in log.read_text(),
        ready_seconds_max=30,
        stop_seconds_max=1,
    ):
        recorded = record(app, [report], actor="service:tests", confirm_seconds=10, attempts=2)
    assert recorded == Recorded(inserted=1), log_tail(log)

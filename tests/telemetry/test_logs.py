"""The log of a process: one line of JSON per event, one line per task outcome."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

import usage_tasks.celery  # noqa: F401 - stamps what this process sends
from tests.client.test_client import make_sender, start_worker
from tests.factories import team
from usage_tasks.runtime import Runtime

LOGGING = """
import logging, sys, structlog
from usage_tasks.telemetry.logs import configure_logging
configure_logging("INFO")
log = structlog.get_logger("usage_tasks.here")
structlog.contextvars.bind_contextvars(request_id="r")
"""
SECONDS_MAX = 20


def written(statements: str) -> list[dict[str, Any]]:
    """The lines that a process writes."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", LOGGING + statements]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_our_lines_and_a_library_s_have_the_same_form() -> None:
    ours, theirs = written("log.info('usage.posted', rows=3); logging.getLogger('library').warning('%s of it', 'all')")
    assert ours.pop("timestamp")[:10] == theirs.pop("timestamp")[:10]
    same = {"level": "info", "logger": "usage_tasks.here", "request_id": "r", "event": "usage.posted"}
    assert ours == same | {"rows": 3}
    assert theirs == same | {"level": "warning", "logger": "library", "event": "all of it"}


def test_what_is_below_the_level_is_not_written_and_what_json_cannot_hold_is() -> None:
    (line,) = written("log.debug('no'); log.info('yes', at=object, text='\\udcff\\n')")
    assert (line["event"], line["at"], line["text"]) == ("yes", "<class 'object'>", "\udcff\n")


def test_an_error_s_traceback_is_in_its_line() -> None:
    (line,) = written("try:\n 1 / 0\nexcept ZeroDivisionError:\n log.exception('failed')")
    assert "ZeroDivisionError: division by zero" in line["exception"]


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    done = tmp_path / "done"
    assert written(f"sys.stderr.close(); log.info('lost'); open({str(done)!r}, 'w').close()") == []
    assert done.exists()


@pytest.mark.timeout(60)
def test_a_task_writes_one_line_an_outcome_with_its_ids_and_nothing_else(
    rt: Runtime, environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    sender, asked = make_sender(redis_url), {"attribution_id": team(), "actor": "service:tests"}
    with bound_contextvars(request_id="a-request"):
        for task_id, arguments in (("good", asked), ("bad", asked | {"colour": "red"}), ("last", {})):
            sender.send_task("usage.get_balance", kwargs=arguments, queue="usage", task_id=task_id)
    log = tmp_path / "worker-1.log"
    with ExitStack() as workers:
        start_worker(workers, environment, tmp_path, 1)
        give_up_at = time.monotonic() + SECONDS_MAX
        while '"task_id": "last", ' not in log.read_text():
            assert time.monotonic() < give_up_at, log.read_text()
            time.sleep(0.05)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("task_id") == "good" or "good" in line["event"]]
    assert [(each["event"], each["outcome"]) for each in about] == [("task.ended", "done")]
    assert (about[0]["request_id"], about[0]["attribution_id"]) == ("a-request", team())
    ended = [line["outcome"] for line in lines if line["event"] == "task.ended"]
    assert ended[:2] == ["done", "refused"]
    (refused,) = (line for line in lines if line["event"] == "task.refused" and line["task_id"] == "bad")
    assert "colour" in refused["reason"]

"""A worker's metrics for Prometheus: the address, the processes included, and the effect of unreadable files."""

import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.client.test_client import make_sender, start_worker
from tests.factories import team
from usage_tasks.embedded.processes import free_port

pytestmark = pytest.mark.timeout(120)

KEY: Final = b'["x", "x_total", {}, "help"]    '
ENTRY: Final = struct.pack(f"i{len(KEY)}sdd", len(KEY), KEY, 1.0, 0.0)
BROKEN: Final[dict[str, bytes]] = {
    "empty": b"",
    "of one byte": b"\x08",
    "of the length alone": struct.pack("ii", 4096, 0),
    "truncated in a value": struct.pack("ii", 8 + len(ENTRY), 0) + ENTRY[:-9],
    "truncated in a key": struct.pack("ii", 8 + len(ENTRY), 0) + ENTRY[:12],
    "with a key that is no JSON": (struct.pack("ii", 8 + len(ENTRY), 0) + ENTRY).replace(b'["x"', b"[[[["),
    "with a key of another form": (struct.pack("ii", 8 + len(ENTRY), 0) + ENTRY).replace(b", {}, ", b", 12, "),
    "that leads the reader in circles": struct.pack("iiiidd", 32, 0, -28, 0, 0.0, 0.0),
    "of something else": bytes(range(256)) * 20,
}


def scrape(port: int, address: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def wait_for(holds: Callable[[], bool], seconds: float = 30) -> None:
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_files_that_cannot_be_read_do_not_hide_the_others(
    environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    directory, port = tmp_path / "not there yet" / "metrics", free_port()
    variables = {"PROMETHEUS_MULTIPROC_DIR": str(directory), "USAGE_METRICS_PORT": str(port)}
    asked = {"attribution_id": team(), "actor": "service:tests"}
    counted = 'usage_task_duration_seconds_count{outcome="done",task="usage.get_balance"}'
    with ExitStack() as workers:
        start_worker(workers, environment | variables, tmp_path, 1)
        for number, content in enumerate(BROKEN.values()):
            (directory / f"counter_{99_000_000 + number}.db").write_bytes(content)
            (directory / f"gauge_mostrecent_{99_000_000 + number}.db").write_bytes(content)
        (directory / "foreign.db").write_bytes(b"SQLite format 3\x00")
        (directory / "counter_of_others.db").mkdir()
        make_sender(redis_url).send_task("usage.get_balance", kwargs=asked, queue="usage").get(timeout=30)
        wait_for(lambda: f"{counted} 1.0" in scrape(port))
        assert "x_total" not in scrape(port)
        log = (tmp_path / "worker-1.log").read_text()
        assert log.count("counter_99000000.db") == 1  # once, not at every scrape
    # They are not in the way of a worker whose processes get the same numbers.
    assert (directory / "counter_99000000.db").exists()
    old = time.time() - 3600
    for path in directory.glob("*_990000*.db"):
        os.utime(path, (old, old))
    with ExitStack() as workers:
        start_worker(workers, environment | variables, tmp_path, 2)
        assert list(directory.glob("*_990000*.db")) == []
        assert f"{counted} 1.0" in scrape(port)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_of_the_number_of_this_process_does_not_keep_it_from_counting(
    tmp_path: Path, content: bytes
) -> None:
    code = (
        "import os, sys; open(f'{sys.argv[1]}/counter_{os.getpid()}.db', 'wb').write(bytes.fromhex(sys.argv[2])); "
        "from usage_tasks.telemetry import metrics; metrics.ROWS.labels('a', 'b').inc(); "
        "from usage_tasks.telemetry.multiprocess import WholeFilesCollector; "
        "samples = [each for metric in WholeFilesCollector(sys.argv[1]).collect() for each in metric.samples]; "
        "print([each.value for each in samples if each.name == 'usage_rows_total'])"
    )
    environ = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path), content.hex()]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("[1.0]\n"), done.stderr


def test_the_address_of_the_metrics_is_a_setting_and_loopback_by_default(
    environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    with ExitStack() as workers:
        start_worker(workers, environment | {"USAGE_METRICS_PORT": str(port)}, tmp_path, 1, "--pool=threads")
        assert "python_info" in scrape(port)
        with pytest.raises(OSError, match="refused"):
            scrape(port, "127.0.0.2")
    port = free_port()
    everywhere = {"USAGE_METRICS_PORT": str(port), "USAGE_METRICS_ADDRESS": "0.0.0.0"}  # noqa: S104 - what is tested
    with ExitStack() as workers:
        start_worker(workers, environment | everywhere, tmp_path, 2, "--pool=threads")
        assert "python_info" in scrape(port, "127.0.0.2")


def lines_about_metrics(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "metrics." in line or "Traceback" in line]


def test_a_port_without_the_directory_is_a_line_where_children_do_the_work(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for number, pool, lines in ((1, "prefork", 1), (2, "threads", 0)):
        variables = {"USAGE_METRICS_PORT": str(free_port())}
        with ExitStack() as workers:
            start_worker(workers, environment | variables, tmp_path, number, f"--pool={pool}")
        told = lines_about_metrics(tmp_path / f"worker-{number}.log")
        assert len(told) == lines
        assert all("set PROMETHEUS_MULTIPROC_DIR to a directory" in line for line in told)


@pytest.mark.parametrize("wrong", ["taken", "https", "0", "99999", "address"])
def test_a_port_that_cannot_be_had_is_a_line_and_the_worker_works(
    environment: dict[str, str], redis_url: str, tmp_path: Path, wrong: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, ExitStack() as workers:
        port = str(taken.getsockname()[1]) if wrong in {"taken", "address"} else wrong
        address = "192.0.2.1" if wrong == "address" else ""
        variables = {"USAGE_METRICS_PORT": port, "USAGE_METRICS_ADDRESS": address}
        start_worker(workers, environment | variables, tmp_path, 1, "--pool=threads")
        asked = {"attribution_id": team(), "actor": "service:tests"}
        make_sender(redis_url).send_task("usage.get_balance", kwargs=asked, queue="usage").get(timeout=30)
    (line,) = lines_about_metrics(tmp_path / "worker-1.log")
    assert "metrics.not_served" in line
    assert "USAGE_METRICS_PORT" in line


@pytest.mark.parametrize("command", [("-m", "celery", "-A", "usage_tasks", "worker"), ("-m", "usage_tasks", "verify")])
def test_a_directory_that_cannot_be_made_is_a_line_and_exit_code_2(
    environment: dict[str, str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    variables = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "file" / "metrics")}
    done = subprocess.run(
        [sys.executable, *command], env=environment | variables, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "PROMETHEUS_MULTIPROC_DIR: must be a directory that can be written" in done.stderr

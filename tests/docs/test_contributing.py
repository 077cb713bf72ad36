"""The files for contributors name what there is: targets, commands, Pythons, modules."""

import re
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
PICTURES = sorted((ROOT / "docs" / "images").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
ADDITIONS = (
    "a price rule",
    "an event of Stripe",
    "an announcement",
    "a command",
    "a metric",
    "a setting",
)


def test_help_lists_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make (\w+) ", helped, re.MULTILINE)) == set(phony.split()) - {"help"}


def test_contributing_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"`make (\w+)`", (ROOT / "CONTRIBUTING.md").read_text())) <= targets


def test_the_hosted_workflow_runs_what_ci_runs_on_every_python_that_is_supported() -> None:
    ci = re.findall(r"^make \w+$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert re.findall(r"- run: (.+)", WORKFLOW) == ci
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = [each.rpartition(" ")[2] for each in described["classifiers"] if ":: Python :: 3." in each]
    (tested,) = re.findall(r"python: \[(.+)\]", WORKFLOW)
    assert re.findall(r'"([\d.]+)"', tested) == supported


def test_the_hooks_before_a_commit_are_tools_of_the_environment() -> None:
    entries = re.findall(r"entry: (\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert entries
    assert all((ROOT / each).is_file() for each in entries)


def test_the_changelog_has_no_entry_twice() -> None:
    entries = [" ".join(each.split()) for each in re.split(r"\n- ", (ROOT / "CHANGELOG.md").read_text())]
    assert [entry for entry, times in Counter(entries).items() if times > 1] == []


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_described_has_a_dark_form_and_takes_no_file_or_font_from_elsewhere(picture: Path) -> None:
    root = ET.fromstring(picture.read_text())  # noqa: S314 - a file of this repository
    assert root.find(f"{SVG}title") is not None
    assert root.find(f"{SVG}desc") is not None
    assert "prefers-color-scheme: dark" in picture.read_text()
    assert not re.findall(r"@import|@font-face|url\((?!#)|href=", picture.read_text())


def test_the_modules_in_the_picture_exist() -> None:
    root = ET.parse(ROOT / "docs" / "images" / "architecture.svg").getroot()  # noqa: S314 - as above
    named = []
    for text in root.iter(f"{SVG}text"):
        files = re.findall(r"[\w/]+\.py", text.text or "")
        # A second name without a folder is beside the first.
        named += [each if "/" in each else f"{files[0].rpartition('/')[0]}/{each}" for each in files]
    assert len(named) > 15
    assert [each for each in named if not (ROOT / "usage_tasks" / each).is_file()] == []


@pytest.mark.parametrize("addition", ADDITIONS)
def test_the_architecture_names_the_files_and_the_tests_of_an_addition(addition: str) -> None:
    (row,) = re.findall(rf"^\| {addition}.*$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    _, change, tests = (cell.strip() for cell in row.strip("|").split("|"))
    assert re.findall(r"`[\w/]+(?:\.py|/)`", change)
    assert "tests/" in tests

"""docs/reference is what the code is now; every key and variable has a meaning, every task and announcement a place."""

import re
from collections.abc import Mapping
from functools import cache

import pytest

from tests.docs.reference import FOLDER, render_pages
from tests.docs.reference.metrics import of_exporter
from usage_tasks.commands.operations.exporter import registry_of
from usage_tasks.domain.announcements import ANNOUNCEMENTS
from usage_tasks.runtime import Runtime
from usage_tasks.settings.environment import OTHER_VARIABLES, list_fields
from usage_tasks.settings.meanings import KEYS, VARIABLES
from usage_tasks.tasks.task import DECLARATIONS

SHAPE = re.compile(r"\[[A-Z]\w+\]\((#[a-z]+)\)")


@cache
def pages() -> Mapping[str, str]:
    """The pages as the code is: they take a second to write, which no other test process spends."""
    return render_pages()


@pytest.mark.parametrize("name", sorted(file.relative_to(FOLDER).as_posix() for file in FOLDER.rglob("*.md")))
def test_a_page_is_as_the_code_is(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name], f"docs/reference/{name} is old: run `make reference`"


def test_each_page_is_there_and_no_other() -> None:
    there = {file.relative_to(FOLDER).as_posix() for file in FOLDER.rglob("*.md")}
    assert there == set(pages()), "run `make reference`"


def test_every_key_and_every_variable_has_a_meaning() -> None:
    assert set(KEYS) == {path for path, _ in list_fields()}, "settings/meanings.py"
    assert set(VARIABLES) >= OTHER_VARIABLES, "settings/meanings.py"


def test_every_task_has_a_section_with_an_answer() -> None:
    assert len(DECLARATIONS) > 40
    for name in DECLARATIONS:
        page = pages()[f"tasks/{name.partition('.')[0]}.md"]
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert "- Who may: " in section, name
        assert "\nAnswer: " in section, name
        assert f"`{name}`" in pages()["tasks.md"]


def test_every_announcement_has_a_section_with_its_fields() -> None:
    page = pages()["announcements.md"]
    for name in ANNOUNCEMENTS:
        assert "| `attribution_id` | " in page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_every_shape_that_a_page_names_stands_on_it() -> None:
    for name, text in pages().items():
        headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", text, re.MULTILINE)}
        assert {link.removeprefix("#") for link in SHAPE.findall(text)} <= headings, name


def test_the_exporters_metrics_are_all_there(real_rt: Runtime) -> None:
    read_from_source = {name for name, _, _ in of_exporter()}
    collected = {family.name for family in registry_of(real_rt).collect()}
    # Before the ledger job has ended well once, there is nothing to show for it.
    assert collected <= read_from_source
    assert read_from_source - collected == {"usage_ledger_done_timestamp_seconds"}

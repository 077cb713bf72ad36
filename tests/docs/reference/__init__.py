"""Writes docs/reference from the code: tasks, announcements, commands, settings, metrics.

    python -m tests.docs.reference

`make reference` runs it; `tests/docs/test_reference.py`, a part of `make lint`, fails if a page is old.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.docs.reference import announcements, commands, metrics, settings, tasks

ROOT: Final = Path(__file__).parents[3]
FOLDER: Final = ROOT / "docs" / "reference"

_INDEX: Final = """\
# Reference

Generated from the code by `make reference`; `make lint` fails if a page is old. To change a page, change the docstring,
the description or the table that it comes from.

| page | contents |
|---|---|
"""


def render_pages() -> Mapping[str, str]:
    """Return the text of every page, by its file name below docs/reference."""
    pages = {
        **tasks.render(),
        "announcements.md": announcements.render(),
        "commands.md": commands.render(),
        "settings.md": settings.render(),
        "metrics.md": metrics.render(),
    }
    rows = [
        f"| [{text.splitlines()[0].removeprefix('# ')}]({name}) | {_first(text)} |\n" for name, text in pages.items()
    ]
    return {"README.md": _INDEX + "".join(rows), **pages}


def _first(page: str) -> str:
    """Return the first sentence below a page's heading."""
    return page.split("\n\n")[1].replace("\n", " ").split(". ")[0].rstrip(".") + "."


def write_pages() -> None:
    """Write every page, and remove the pages that are no longer generated."""
    pages = render_pages()
    for old in FOLDER.rglob("*.md"):
        if old.relative_to(FOLDER).as_posix() not in pages:
            old.unlink()
    for name, text in pages.items():
        file = FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

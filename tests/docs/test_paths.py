"""Every file, module, test and page that a document names exists, so that a move can't leave a stale name behind."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "usage_tasks"
HOLDING = ("docs", "deploy", "usage_tasks", "tests")
MODULES = {it.name for name in (*HOLDING, "client") for it in (ROOT / name).rglob("*.py")}
MODULES |= {it.name for it in ROOT.glob("*.py")} | {"platform_example.py"}  # README.md's reader writes the last
FOLDERS = sorted(each.name for each in PACKAGE.iterdir() if each.is_dir() and each.name != "__pycache__")
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(it for name in HOLDING for it in (ROOT / name).rglob("*.md"))})

# tests/..., usage_tasks/..., docs/..., deploy/...
_PATH = re.compile(r"(?<![\w/.-])(?:tests|usage_tasks|docs|deploy)/[\w*-]+(?:[/.][\w*-]+)*")
# storage/ledger/entries.py: a module of the package
_SHORT = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w/]+\.py\b")
# `services/ledger/`: a folder of the package
_FOLDER = re.compile(rf"`((?:{'|'.join(FOLDERS)})/(?:\w+/)*)`")
# `posting.py`: a module that stands beside one with its folder
_BESIDE = re.compile(r"`(\w+\.py)`")
# test_entries.py, in any folder of the tests
_TEST = re.compile(r"(?<![\w/])test_\w+\.py\b")
# python -m tests.benchmarks.sync, usage_tasks.client.record
_MODULE = re.compile(r"(?<![\w/.-])(?:tests|usage_tasks)(?:\.[a-z_]+)+")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
# `tests/a/test_b.py::test_c`
_CASE = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def is_there(pattern: str) -> bool:
    return any(True for _ in ROOT.glob(pattern))


def is_module(dotted: str) -> bool:
    """True if the name is a module, a package, or a definition in a module."""
    path = dotted.replace(".", "/")
    parent, _, name = path.rpartition("/")
    return is_there(f"{path}.py") or is_there(path) or defines(f"{parent}.py", name)


def defines(file: str, name: str) -> bool:
    path = ROOT / file
    # A definition, or a name that the module imports to offer it too.
    pattern = rf"^(?:def |class |    |from .* import .*)?{name}\b"
    return path.exists() and bool(re.search(pattern, path.read_text(), re.MULTILINE))


def missing(document: Path) -> Iterator[str]:
    text = document.read_text()
    yield from (path for path in _PATH.findall(text) if not is_there(path))
    yield from (path for path in _SHORT.findall(text) if not is_there(f"usage_tasks/{path}"))
    yield from (path for path in _FOLDER.findall(text) if not is_there(f"usage_tasks/{path}"))
    yield from (name for name in _BESIDE.findall(text) if name not in MODULES)
    yield from (name for name in _TEST.findall(text) if not is_there(f"tests/**/{name}"))
    yield from (module for module in _MODULE.findall(text) if not is_module(module))
    yield from (link for link in _LINK.findall(text) if not (document.parent / link).exists())
    yield from (f"{file}::{test}" for file, test in _CASE.findall(text) if not defines(file, test))


def test_the_documents_are_found() -> None:
    assert len(DOCUMENTS) > 20


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_name_in_a_document_exists(document: Path) -> None:
    assert sorted(set(missing(document))) == []


def test_a_stale_name_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.md"
    wrong.write_text(
        "`tests/ledger/test_nothing.py`, usage_tasks/nothing.py, docs/nothing.md; test_nothing.py; storage/nothing.py; "
        "`storage/nothing/`, `storage/`, `storage/ledger/`; `nothing.py`, `posting.py`; "
        "`python -m tests.nothing`; [a page](nothing.md); "
        "`tests/docs/test_paths.py::test_nothing`, `tests/docs/test_paths.py::test_the_documents_are_found`"
    )
    assert list(missing(wrong)) == [
        "tests/ledger/test_nothing.py",
        "usage_tasks/nothing.py",
        "docs/nothing.md",
        "storage/nothing.py",
        "storage/nothing/",
        "nothing.py",
        "test_nothing.py",
        "tests.nothing",
        "nothing.md",
        "tests/docs/test_paths.py::test_nothing",
    ]

"""docs/glossary.md has each term once, and its names are in the code."""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "usage_tasks"
GLOSSARY = ROOT / "docs" / "glossary.md"
SOURCES = {path: path.read_text() for path in (*PACKAGE.rglob("*.py"), *ROOT.glob("*.py"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A row of the glossary."""

    name: str
    meaning: str
    in_code: tuple[str, ...]
    not_to_use: tuple[str, ...]


def table(heading: str) -> list[list[str]]:
    """Read the rows of the table below a heading, without its first line."""
    section = re.split(r"^## ", GLOSSARY.read_text(), flags=re.MULTILINE)
    lines = next(it for it in section if it.startswith(heading)).splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


def listed(cell: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in cell.split(","))


TERMS = [
    Term(name=name, meaning=meaning, in_code=tuple(re.findall(r"`([^`]+)`", in_code)), not_to_use=listed(not_to_use))
    for name, meaning, in_code, not_to_use in table("Terms")
]
NAMES = [term.name for term in TERMS]


def is_defined(name: str, source: str) -> bool:
    """True if a source defines a class, a function, a constant or a field of that name."""
    return bool(re.search(rf"^ *(?:class|def) {name}\b|^{name}\b[^=\n]*=|^ +{name}: ", source, re.MULTILINE))


def is_in_code(name: str) -> bool:
    """True for a definition, a module (`a.b`), a definition in one (`a.b.C`), or a name that travels as a text."""
    parent, _, last = name.rpartition(".")
    module = PACKAGE / f"{parent.replace('.', '/')}.py"
    if parent and module in SOURCES and is_defined(last, SOURCES[module]):
        return True
    if any(path.with_suffix("").as_posix().endswith(f"/{name.replace('.', '/')}") for path in SOURCES):
        return True
    quoted = f'"{name}"'
    return (PACKAGE / name).is_dir() or any(
        quoted in source or (not parent and is_defined(name, source)) for source in SOURCES.values()
    )


def test_each_term_is_there_once_in_alphabetical_order() -> None:
    assert len(TERMS) > 90, "the table was not found"
    assert [name for name, times in Counter(NAMES).items() if times > 1] == []
    assert [second for first, second in pairwise(NAMES) if first > second] == []


def test_each_term_has_one_sentence_and_a_word_not_to_use() -> None:
    assert [term.name for term in TERMS if not re.fullmatch(r"[A-Z0-9][^.]*(?:\.[^ ][^.]*)*\.", term.meaning)] == []
    assert [term.name for term in TERMS if not all(term.not_to_use)] == []


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_each_name_of_a_term_is_in_the_code(term: Term) -> None:
    assert term.in_code
    assert [name for name in term.in_code if not is_in_code(name)] == []


def test_a_word_not_to_use_is_no_term_and_is_listed_once() -> None:
    banned = [word for term in TERMS for word in term.not_to_use]
    assert sorted(set(banned) & set(NAMES)) == []
    assert [word for word, times in Counter(banned).items() if times > 1] == []


def test_a_word_with_several_meanings_points_to_terms() -> None:
    words = table("Words that need a second word")
    assert [word for word, _ in words] == sorted(word for word, _ in words)
    assert [(word, term) for word, instead in words for term in listed(instead) if term not in NAMES] == []


@pytest.mark.parametrize("name", ["NoSuchClass", "no_such_module", "ledger.no_such", "usage.no_such_task"])
def test_a_name_that_is_not_in_the_code_is_found(name: str) -> None:
    assert not is_in_code(name)

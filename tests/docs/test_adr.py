"""Every decision has a status, a date and what it supersedes; relations are named on both sides; the index has all."""

import re
from datetime import date
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "adr"
DECISIONS = sorted(FOLDER.glob("[0-9]*.md"))
STATUSES = ("proposed", "accepted", "superseded", "rejected")
HEAD = re.compile(
    r"^# (\d{4}) .+\n\nStatus: (\w+)\. Date: (\d{4}-\d\d-\d\d)\. Supersedes: ([^.\n]+(?:\.md[^.\n]*)*)\.(.*)$",
    re.MULTILINE,
)
NUMBER = re.compile(r"\[(\d{4})\]")
ROW = re.compile(r"^\| \[(\d{4})\]\(([^)]+)\) \| .+ \| (\d{4}-\d\d-\d\d) \| ([\w, ]+) \|$", re.MULTILINE)


def head_of(decision: Path) -> re.Match[str]:
    found = HEAD.match(decision.read_text())
    assert found, f"{decision.name}: begins with `# NNNN Title`, then `Status: ... Date: ... Supersedes: ...`"
    return found


def related(decision: Path, word: str) -> set[str]:
    """Return the numbers that the head names after a word, such as "Amends"."""
    text = head_of(decision)[0].partition(f"{word} ")[2] or head_of(decision)[0].partition(f"{word}: ")[2]
    return set(NUMBER.findall(re.split(r"\. (?=[A-Z])", text)[0]))


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_a_status_a_date_and_what_it_supersedes(decision: Path) -> None:
    number, status, day, supersedes, _ = head_of(decision).groups()
    assert decision.name.startswith(f"{number}-")
    assert status in STATUSES
    assert date(2026, 1, 1) <= date.fromisoformat(day)
    assert supersedes == "nothing" or NUMBER.search(supersedes)


@pytest.mark.parametrize(
    ("active", "passive"),
    [("Supersedes", "Superseded by"), ("Supersedes", "Superseded in part by"), ("Amends", "Amended by")],
    ids=["superseded", "superseded in part", "amended"],
)
def test_a_relation_is_named_on_both_sides(active: str, passive: str) -> None:
    for decision in DECISIONS:
        for number in related(decision, passive):
            (other,) = FOLDER.glob(f"{number}-*.md")
            assert decision.name[:4] in related(other, active), f"{other.name} does not name {decision.name}"
    for decision in DECISIONS:
        for number in related(decision, active):
            (other,) = FOLDER.glob(f"{number}-*.md")
            passives = ("Superseded by", "Superseded in part by") if active == "Supersedes" else (passive,)
            named = set[str]().union(*(related(other, each) for each in passives))
            assert decision.name[:4] in named, f"{other.name} does not name {decision.name}"


def test_the_index_has_every_decision_with_its_date_and_status() -> None:
    rows = {
        number: (file, day, status) for number, file, day, status in ROW.findall((FOLDER / "README.md").read_text())
    }
    assert [file for file, _, _ in rows.values()] == [decision.name for decision in DECISIONS]
    for decision in DECISIONS:
        _, day, status = rows[decision.name[:4]]
        found = head_of(decision)
        assert (day, status.partition(",")[0]) == (found[3], found[2]), decision.name
        assert ("superseded in part" in status) == ("Superseded in part" in found[0]), decision.name

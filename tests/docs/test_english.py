"""The check of the English: it counts as it always has, it fails on a planted sentence, and the pages below it pass."""

import re
from pathlib import Path

import pytest

from tests.english import (
    AREAS,
    LIMITS,
    ROOT,
    RULES,
    Sentence,
    find_constructions,
    find_words,
    main,
    read_glossary,
    read_page,
    read_python,
    read_sentences,
    shares_of,
)

CLEAN = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/README.md", "docs/architecture.md", "docs/guides/*.md")
"""Pages that have none of the constructions and none of the words."""
BANNED = read_glossary((ROOT / "docs" / "glossary.md").read_text())


def sentence(text: str, file: str = "a.py") -> Sentence:
    return Sentence(file=file, text=text)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("What is due is posted.", ["relative start"]),
        ("Whoever asks is answered.", ["relative start"]),
        ("That is how it works.", ["relative start"]),
        ("What is due, and when?", []),
        ("Return the one that is due.", ["one that"]),
        ("Keep those who pay.", ["one that"]),
        ("Ask who is there.", ["one that"]),
        ("It says so to all who told it.", ["tell/say"]),
        ("The rule that holds is due.", []),
        ("Return the balance of an account.", []),
    ],
)
def test_a_construction_is_found(text: str, rules: list[str]) -> None:
    assert [each.rule for each in find_constructions([sentence(text)])] == rules


def test_the_rules_are_those_that_the_figures_were_measured_with() -> None:
    assert {rule: words.pattern for rule, words in RULES.items()} == {
        "relative start": r"^(What|Who|Whoever|Whose|Whom|That)\b(?!.*\?$)",
        "one that": r"\b([Oo]ne (that|who|whose)|those (that|who)|who(ever)? (is|has|was|had))\b",
        "tell/say": r"\b(told|tells?|says?|said)\b",
    }


def test_docstrings_and_comments_are_read_and_nothing_else_of_a_module() -> None:
    source = '"""Of the module."""\nX = "no prose"  # of a line\n# noqa: E501\nclass A:\n    """Of the class."""\n'
    assert sorted(filter(None, read_python(source))) == ["Of the class.", "Of the module.", "of a line"]


def test_a_page_is_read_by_paragraphs_items_and_cells_without_code() -> None:
    page = (
        "# Title\n\nA text\nwith a [link](x.md).\n- one item\n- two items\n\n"
        "| a cell | b cell |\n|---|---|\n\n```sh\nno text\n```\n"
    )
    read = [text for text in read_page(page) if re.search(r"\w", text)]
    assert read == ["Title", "A text\nwith a link.", "one item", "two items", "a cell", "b cell"]


def test_a_word_that_the_glossary_replaces_is_found_and_a_name_in_backquotes_is_not() -> None:
    assert len(BANNED) > 100
    assert {"tenant", "saldo", "chargeback"} <= set(BANNED)
    found = find_words([sentence("The Saldo of a tenant, and `tenant`."), sentence("A tenancy.")], BANNED)
    assert [each.rule for each in found] == ['"saldo" (glossary)', '"tenant" (glossary)']
    assert find_words([sentence("The word tenant.", "docs/glossary.md")], BANNED) == []


def test_every_area_has_sentences_and_a_limit() -> None:
    assert set(LIMITS) == set(AREAS)
    assert [area for area, patterns in AREAS.items() if len(list(read_sentences(patterns))) < 40] == []


def test_shares_are_in_percent_of_the_sentences() -> None:
    sentences = [sentence("What is due is posted.")] + [sentence("Return the balance now.")] * 3
    assert shares_of(sentences) == {"relative start": 25, "one that": 0, "tell/say": 0}


@pytest.mark.parametrize("planted", ["What is due is told here.", "The balance of a tenant is here."])
@pytest.mark.parametrize("file", ["README.md", "docs/guides/a.md", "usage_tasks/ledger/a.py", "tests/test_a.py"])
def test_the_check_fails_on_a_planted_sentence(
    tmp_path: Path, file: str, planted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    planted_in = tmp_path / file
    for path in (planted_in, tmp_path / "docs" / "glossary.md"):
        path.parent.mkdir(parents=True, exist_ok=True)
    terms = "## Terms\n| term | meaning | code | do not use |\n|-|-|-|-|\n| account | An account. | `A` | tenant |\n"
    (tmp_path / "docs" / "glossary.md").write_text(terms)
    planted_in.write_text("# The balance is right.\n")
    assert main(check=True, root=tmp_path) == 0
    planted_in.write_text(f"# {planted}\n")
    assert main(check=True, root=tmp_path) == 1
    assert f"{file}: " in capsys.readouterr().out


def test_the_pages_for_newcomers_pass() -> None:
    sentences = list(read_sentences(CLEAN))
    assert len(sentences) > 300
    findings = [*find_constructions(sentences), *find_words(sentences, BANNED)]
    assert [(each.rule, each.sentence.text) for each in findings] == []

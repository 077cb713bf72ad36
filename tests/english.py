"""Shares of three constructions that need two readings, by area, and the words that the glossary replaces.

    python -m tests.english            print the shares, the sentences and the words
    python -m tests.english --check    print what is above its limit, and fail if anything is

Read are docstrings, comments, pages, and the help of the command line (in docs/reference/commands.md). A share is of
the sentences with more than two words. A sentence that is a question has no relative start.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
RULES: Final[Mapping[str, re.Pattern[str]]] = {
    "relative start": re.compile(r"^(What|Who|Whoever|Whose|Whom|That)\b(?!.*\?$)"),
    "one that": re.compile(r"\b([Oo]ne (that|who|whose)|those (that|who)|who(ever)? (is|has|was|had))\b"),
    "tell/say": re.compile(r"\b(told|tells?|says?|said)\b"),
}
LIMIT_PERCENT: Final = 0.5
AREAS: Final[Mapping[str, tuple[str, ...]]] = {
    "usage_tasks": ("usage_tasks/**/*.py", "celeryconfig.py", "beat_schedule.py"),
    "client": ("client/**/*.py",),
    "tests": ("tests/**/*.py",),
    "pages": (
        "*.md",
        "docs/*.md",
        "docs/guides/*.md",
        "deploy/*.md",
        "client/*.md",
        "testing/*.md",
        "usage_tasks/**/*.md",
    ),
    "decisions": ("docs/adr/*.md",),
    "reference": ("docs/reference/**/*.md",),
}
"""The patterns of the files of each area."""

LIMITS: Final[Mapping[str, float]] = dict.fromkeys(AREAS, LIMIT_PERCENT)
"""The largest share of each area, in percent."""

_SKIPPED: Final = frozenset({"versions", "traceability.md"})
"""Migrations, which are never rewritten, and a list of the tests' names."""
_SENTENCE_END: Final = re.compile(r"(?<=[.;:?!])\s+|\n\s*\n")
_NO_PROSE: Final = re.compile(r"#\s*(noqa|type:|pragma)")
_CODE_BLOCK: Final = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_NAME: Final = re.compile(r"`[^`]*`")
_WORDS_MIN: Final = 3
_GLOSSARY: Final = "docs/glossary.md"
_MAY_NAME_WORDS: Final = (_GLOSSARY, "CHANGELOG.md", "tests/english.py", "tests/docs/test_english.py")
"""Where the words not to use may stand: their list, the history, and the test of this check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence and its file, relative to the repository."""

    file: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A sentence with a construction, or with a word that the glossary replaces."""

    rule: str
    sentence: Sentence


def read_python(source: str) -> Iterator[str]:
    """Yield the docstrings and the comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not _NO_PROSE.match(token.string):
            yield token.string.lstrip("# ")


def read_page(text: str) -> Iterator[str]:
    """Yield the paragraphs, the items of lists and the cells of tables of a page, without blocks of code."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", _CODE_BLOCK.sub("\n\n", text))
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#|]|\d+\. ))|(?<=\|)\n", text):
        if paragraph.startswith("|"):
            yield from (cell.strip() for cell in re.split(r"(?<!\\)\|", paragraph)[1:-1])
        else:
            yield re.sub(r"^\s*(?:[-*#]+|\d+\.)\s+", "", paragraph)


def read_sentences(patterns: Iterable[str], root: Path = ROOT) -> Iterator[Sentence]:
    """Yield the sentences of files that have more than two words."""
    for file in sorted({each for pattern in patterns for each in root.glob(pattern)}):
        if file.name in _SKIPPED or not _SKIPPED.isdisjoint(file.parts) or ".venv" in file.parts:
            continue
        texts = read_python(file.read_text()) if file.suffix == ".py" else read_page(file.read_text())
        for each in (part.strip() for text in texts for part in _SENTENCE_END.split(text)):
            if len(each.split()) >= _WORDS_MIN:
                yield Sentence(file=file.relative_to(root).as_posix(), text=each)


def find_constructions(sentences: Iterable[Sentence]) -> list[Finding]:
    """Return each sentence with one of the three constructions, once for each of them."""
    return [
        Finding(rule=rule, sentence=each)
        for each in sentences
        for rule, words in RULES.items()
        if words.search(each.text)
    ]


def read_glossary(text: str) -> Sequence[str]:
    """Return the words that are not to be used, from the last column of the table of terms."""
    terms = text.partition("## Terms")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in terms.splitlines() if line.startswith("|")][2:]
    return [word.strip() for row in rows for word in row[-1].split(",")]


def find_words(sentences: Iterable[Sentence], words: Sequence[str]) -> list[Finding]:
    """Return each sentence with a word that is not to be used. Names in backquotes are no words."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})s?\b", re.IGNORECASE)
    return [
        Finding(rule=f'"{found[1].lower()}" (glossary)', sentence=each)
        for each in sentences
        if each.file not in _MAY_NAME_WORDS
        for found in pattern.finditer(_NAME.sub("", each.text))
    ]


def shares_of(sentences: Sequence[Sentence]) -> Mapping[str, float]:
    """Return the share of each construction in percent."""
    found = find_constructions(sentences)
    counts = {rule: sum(each.rule == rule for each in found) for rule in RULES}
    return {rule: 100 * count / max(1, len(sentences)) for rule, count in counts.items()}


def main(*, check: bool, root: Path = ROOT) -> int:
    """Print the shares and the findings; with `check` return 1 if a share is above its limit or a word is found."""
    banned = read_glossary((root / _GLOSSARY).read_text())
    bad = 0
    for area, patterns in AREAS.items():
        sentences = list(read_sentences(patterns, root))
        shares = shares_of(sentences)
        above = [rule for rule, share in shares.items() if share > LIMITS[area]]
        words = find_words(sentences, banned)
        bad += len(above) + len(words)
        shown = words + [each for each in find_constructions(sentences) if not check or each.rule in above]
        for each in shown:
            sys.stdout.write(f"{each.sentence.file}: {each.rule}: {' '.join(each.sentence.text.split())}\n")
        figures = ", ".join(f"{rule} {share:.2f} %" for rule, share in shares.items())
        sys.stdout.write(f"{area}: {len(sentences)} sentences; {figures}; {len(words)} words of the glossary\n")
    return int(check and bad > 0)


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))

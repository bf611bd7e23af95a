"""English of the project: plain technical sentences, as CONTRIBUTING.md asks for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "tokenpulse_mw").rglob("*.py"))
CODE = [
    *PACKAGE,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "examples").rglob("*.py")),
]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "tokenpulse_mw/monitoring").rglob("*.md")),
]

# What never occurs, and what to write instead.
WORDS = {
    r"whoever|whomever|whosoever": "name the agent",
    r"heed\w*": "use, respect",
    r"(?:no|some)body": "name the agent",
    r"anew": "again",
    r"likewise": "also",
    r"in vain": "without a result",
    r"for want of": "without",
    r"mend(?:s|ed|ing)?": "repair, fix",
    r"of theirs": "their",
    r"tell|tells|told": "report, notify, log, return, distinguish",
    r"lest": "so that ... not",
    r"as above": "repeat the reason",
    r"bury|buried|burial": "dead-letter",
    r"asker|askers": "client",
    r"in force": "current, effective, active",
    r"any more": "no longer",
    r"whatever": "any, even if",
    r"also (?:if|when)": "even if",
    r"others build on": "public",
}
ODD = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): advice for words, advice in WORDS.items()}
OPENING = re.compile(r"(?:What|Who|Whose|Whom|Where|Whether)\b")
# Participles and pronouns that stand for a noun.
NOT_NOUNS = {"each", "told", "said", "found", "given", "made", "wanted", "asked", "kept"}


def faults_of_words(text: str) -> Iterator[str]:
    """Yield `line: word: advice` for each word that is not to be used."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, advice in ODD.items():
            for match in pattern.finditer(line):
                yield f"{number}: {match[0]!r}: {advice}"


def faults_of_docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield `line: opening` for each docstring that begins with a question word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            if OPENING.match(docstring):
                yield f"{getattr(node, 'lineno', 1)}: docstring begins {docstring[:30]!r}"


def faults_of_loops(tree: ast.Module) -> Iterator[str]:
    """Yield `line: name` for each loop variable that is not a noun."""
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            for name in ast.walk(node.target):
                if isinstance(name, ast.Name) and name.id in NOT_NOUNS:
                    yield f"{name.lineno}: loop variable {name.id!r}: use the noun"


def ids(path: Path) -> str:
    """Return the path of a file below the project."""
    return path.relative_to(ROOT).as_posix()


def faults(path: Path) -> list[str]:
    """Return all faults of a file."""
    text = path.read_text()
    if path in PAGES:
        return list(faults_of_words(text))
    tree = ast.parse(text)
    loops = faults_of_loops(tree) if path in PACKAGE else ()
    return [*faults_of_words(text), *faults_of_docstrings(tree), *loops]


@pytest.mark.parametrize(
    "path", [path for path in [*CODE, *PAGES] if path != Path(__file__)], ids=ids
)
def test_file_is_in_plain_english(path: Path) -> None:
    """A file has plain words, docstrings that begin with a verb, and nouns as loop variables."""
    assert faults(path) == []


def test_every_kind_of_fault_is_found() -> None:
    """The checks find what they look for, and nothing else."""
    text = 'def f():\n    """Whether nobody heeds."""\n    return [each for each in g()]\n'
    tree = ast.parse(text)

    assert list(faults_of_words(text)) == [
        "2: 'heeds': use, respect",
        "2: 'nobody': name the agent",
    ]
    assert list(faults_of_docstrings(tree)) == ["1: docstring begins 'Whether nobody heeds.'"]
    assert list(faults_of_loops(tree)) == ["3: loop variable 'each': use the noun"]
    assert list(faults_of_words("Tokens are toll-free; mendable; lesson; antelope")) == []

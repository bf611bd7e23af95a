"""The documentation is true: every Python block in it runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tokenpulse_mw

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_runs(page: Path) -> None:
    """The blocks of a page run one after the other, as a reader would try them."""
    text = page.read_text()
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block.group(1), str(page), "exec")
        exec(code, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links between pages, and to files of the project, are not broken."""
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_public_name_is_documented() -> None:
    """Whatever is exported is mentioned in the documentation."""
    pages = "".join(page.read_text() for page in PAGES)

    assert [name for name in tokenpulse_mw.__all__ if name not in pages] == []


def test_every_metric_is_documented() -> None:
    """The page on metrics has a row for each family that is exported, and for no other."""
    source = (Path(tokenpulse_mw.__file__).parent / "metrics" / "families.py").read_text()
    page = (ROOT / "docs" / "metrics.md").read_text()

    exported = set(re.findall(r'"(tokenpulse_\w+)"', source))
    assert set(re.findall(r"^\| `(tokenpulse_\w+)`", page, re.MULTILINE)) == exported

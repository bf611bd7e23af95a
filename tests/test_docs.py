"""Documentation: Python blocks, links, public names and metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import tokenpulse_mw

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_of_page_run(page: Path) -> None:
    """The Python blocks of a page run in order, in one namespace."""
    text = page.read_text()
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block.group(1), str(page), "exec")
        exec(code, names)


def test_settings_of_the_operator_apply_to_the_quickstart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first application of the quickstart needs no change to be configured by variables."""
    monkeypatch.setenv("TOKENPULSE_METRICS_TOKEN", "a-token-of-enough-characters")
    monkeypatch.setenv("TOKENPULSE_TRUSTED_PROXIES", "10.0.0.0/8")
    block = BLOCK.search((ROOT / "docs/quickstart.md").read_text())
    names: dict[str, Any] = {"__name__": "__docs__"}

    assert block is not None
    exec(block.group(1), names)
    client = TestClient(names["app"], client=("10.0.0.1", 1))

    assert client.get("/metrics").status_code == 404
    for number in range(5):
        headers = {"x-forwarded-for": f"192.0.2.{number}"}
        assert client.post("/claude/v1/messages", headers=headers).status_code == 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_page_have_a_target(page: Path) -> None:
    """Each relative link refers to an existing file."""
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_each_public_name_is_documented() -> None:
    """Each exported name occurs in the documentation."""
    pages = "".join(page.read_text() for page in PAGES)

    assert [name for name in tokenpulse_mw.__all__ if name not in pages] == []


def test_metrics_page_lists_all_families() -> None:
    """The page of metrics has a row for each exported family, and no other row."""
    source = (Path(tokenpulse_mw.__file__).parent / "metrics" / "families.py").read_text()
    page = (ROOT / "docs" / "metrics.md").read_text()

    exported = set(re.findall(r'"(tokenpulse_\w+)"', source))
    assert set(re.findall(r"^\| `(tokenpulse_\w+)`", page, re.MULTILINE)) == exported

"""Files of the live page: their size, and what they must not contain."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

import tokenpulse_mw

STATIC = Path(tokenpulse_mw.__file__).parent / "dashboard" / "static"
HTML, CSS, SCRIPT = ((STATIC / name).read_text() for name in ("index.html", "live.css", "live.js"))
MAX_BYTES = 71_950
MAX_COMPRESSED_BYTES = 25_250


def test_files_are_small() -> None:
    """The page, its style and its script have a bounded size, also compressed."""
    files = [text.encode() for text in (HTML, CSS, SCRIPT)]

    assert sum(map(len, files)) <= MAX_BYTES
    assert sum(len(gzip.compress(file, 9)) for file in files) <= MAX_COMPRESSED_BYTES


@pytest.mark.parametrize(
    "word",
    [
        *("innerHTML", "outerHTML =", "insertAdjacentHTML", "document.write", "DOMParser"),
        *("eval(", "Function(", "setTimeout(", "cookie", "srcdoc", "import(", ".style"),
    ],
)
def test_script_has_no_way_to_run_or_parse_text(word: str) -> None:
    """The script never parses text as markup, runs it, or sets a cookie."""
    assert word not in SCRIPT


@pytest.mark.parametrize("file", sorted(STATIC.iterdir()), ids=lambda file: file.name)
def test_files_have_no_url_of_another_host(file: Path) -> None:
    """No file loads anything from another host; the names of XML namespaces are no requests."""
    urls = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", file.read_text())

    assert set(urls) <= {"http://www.w3.org/2000/svg"}


def test_page_has_no_inline_code_or_style() -> None:
    """The page has no code, no style and no handler of its own, which the policy would reject."""
    assert re.findall(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", HTML) == []


def test_links_of_page_are_relative() -> None:
    """Files are linked relative to the page, so it works below any path."""
    links = re.findall(r'(?:href|src)="([^"#]+)"', HTML)

    assert sorted(links) == ["live.css", "live.js", "ok.svg"]
    assert all((STATIC / link).exists() for link in links)


def test_page_without_script_names_the_endpoints() -> None:
    """Without JavaScript, the page says what it is and how to read the same data."""
    text = re.search(r"<noscript>(.*?)</noscript>", HTML, re.DOTALL)

    assert text is not None
    for line in ("needs JavaScript", "/admin/live/state", "/admin/alerts", "/admin/limits"):
        assert line in text[1]


def test_ids_of_script_exist_in_page() -> None:
    """Each element that the script names is in the page."""
    ids = set(re.findall(r'\bid="([\w-]+)"', HTML))
    names = set(re.findall(r"\$\.(\w+)", SCRIPT))
    hosts = {f"t-{name}" for name in re.findall(r'table\("(\w+)"', SCRIPT)}

    assert names - ids == set()
    assert hosts - ids == set()

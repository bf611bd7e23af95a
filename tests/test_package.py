"""Metadata of the distribution."""

from __future__ import annotations

import tomllib
from pathlib import Path

import tokenpulse_mw

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLACEHOLDER = "example.invalid"


def test_project_has_the_urls_that_an_index_shows() -> None:
    """Homepage, documentation, repository, issues and changelog are linked."""
    assert {"Homepage", "Documentation", "Repository", "Issues", "Changelog"} == set(
        PROJECT["urls"]
    )


def test_urls_are_all_placeholders_or_all_real() -> None:
    """A release replaces every placeholder, also the address of SECURITY.md."""
    texts = [*PROJECT["urls"].values(), (ROOT / "SECURITY.md").read_text()]

    assert len({PLACEHOLDER in text for text in texts}) == 1


def test_version_is_in_the_changelog() -> None:
    """The version of the package is released, or its changes are under Unreleased."""
    changelog = (ROOT / "CHANGELOG.md").read_text()

    assert "## [Unreleased]" in changelog or f"## [{tokenpulse_mw.__version__}]" in changelog

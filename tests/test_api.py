"""Reference of the public names."""

from __future__ import annotations

import pytest

import tokenpulse_mw

from .support.api_reference import PAGE, reference, summary


def test_api_reference_equals_generated_page() -> None:
    """The page is the output of `python -m tests.support.api_reference`."""
    assert PAGE.read_text() == reference()


@pytest.mark.parametrize("name", tokenpulse_mw.__all__)
def test_public_name_has_a_section_with_its_summary(name: str) -> None:
    """Each public name has a section that contains the summary of its docstring."""
    text = summary(getattr(tokenpulse_mw, name))

    assert text
    assert f"## `{name}`" in PAGE.read_text()
    assert text in PAGE.read_text()

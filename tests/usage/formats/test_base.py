"""Defaults of formats."""

from __future__ import annotations

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.document import Document, Event
from tokenpulse_mw.usage.formats import Format


def test_format_without_functions_recognizes_nothing() -> None:
    """Every function of a format is optional."""
    form = Format("empty")

    assert form.find_usage(Document()) is None
    assert form.count({"input_tokens": 1}) == TokenUsage()
    assert form.has_output(Event()) is False

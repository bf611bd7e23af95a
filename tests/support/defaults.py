"""What is taken for an argument that is left out, as a test wants it."""

from __future__ import annotations

from typing import Any

import pytest


def set_default(monkeypatch: pytest.MonkeyPatch, function: Any, name: str, value: object) -> None:
    """Let `function` take `value` for its argument `name`, which has another default."""
    assert name in function.__kwdefaults__
    monkeypatch.setitem(function.__kwdefaults__, name, value)

"""What is taken for an argument that is left out, as a test wants it."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import pytest


def set_default(monkeypatch: pytest.MonkeyPatch, function: Any, name: str, value: object) -> None:
    """Let `function` take `value` for its argument `name`, which has another default."""
    defaults = unwrap(function).__kwdefaults__
    assert name in defaults
    monkeypatch.setitem(defaults, name, value)

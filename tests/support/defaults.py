"""Replacement of default arguments."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import pytest


def set_default(monkeypatch: pytest.MonkeyPatch, function: Any, name: str, value: object) -> None:
    """Make `value` the default of the keyword-only parameter `name` of `function`."""
    defaults = unwrap(function).__kwdefaults__
    assert name in defaults
    monkeypatch.setitem(defaults, name, value)

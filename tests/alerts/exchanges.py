"""Finished exchanges, as an engine observes them."""

from __future__ import annotations

from typing import Any

from tokenpulse_mw import Exchange


def exchange(**fields: Any) -> Exchange:
    """Return a complete exchange with status 200 and an unknown provider, changed by `fields`."""
    result = Exchange("POST", 0.0)
    result.status = 200
    result.provider = "unknown"
    for name, value in fields.items():
        setattr(result, name, value)
    return result

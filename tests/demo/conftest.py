"""Longer timeouts for the demo."""

from __future__ import annotations

from functools import partial

import httpx2
import pytest

from tokenpulse_mw.demo import scenario

from ..support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for responses and alerts as long as all tests do."""
    # New connections: the server may close a connection that was idle.
    limits = httpx2.Limits(max_keepalive_connections=0)
    client = partial(httpx2.AsyncClient, timeout=PATIENCE, limits=limits)
    monkeypatch.setattr(httpx2, "AsyncClient", client)
    monkeypatch.setattr(scenario, "_ALERT_TIMEOUT", PATIENCE)

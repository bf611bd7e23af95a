"""Patience for the demo, which has little itself."""

from __future__ import annotations

from functools import partial

import httpx2
import pytest

from tokenpulse_mw.demo import scenario

from ..support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it wait for answers and alerts as long as tests wait for what must come."""
    # On connections of their own: a server may be closing one that was idle for long.
    limits = httpx2.Limits(max_keepalive_connections=0)
    client = partial(httpx2.AsyncClient, timeout=PATIENCE, limits=limits)
    monkeypatch.setattr(httpx2, "AsyncClient", client)
    monkeypatch.setattr(scenario, "_LONGEST_WAIT", PATIENCE)

"""Fixtures that run a test of several processes on every kind of store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..store.conftest import postgres
from .replicas import Replicas

__all__ = ["kind", "postgres", "replicas"]


@pytest.fixture(
    params=[
        "memory-asyncio",
        "memory-trio",
        pytest.param("sqlite-asyncio", marks=pytest.mark.slow),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Return a kind of store and its event loop."""
    return str(request.param)


@pytest.fixture
async def replicas(kind: str, anyio_backend: str, tmp_path: Path) -> AsyncIterator[Replicas]:
    """Yield processes that share a store, of which none has started."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    replicas = Replicas(url if kind.startswith("sqlite") else None)
    yield replicas
    await replicas.store.aclose()

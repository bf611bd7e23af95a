"""A real Alertmanager, and the receiver of its notifications."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.receiver import Receiver
from ..support.servers import Server, alertmanager_server, started


@pytest.fixture
def told() -> Iterator[Receiver]:
    """Yield the receiver of Alertmanager's notifications."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def server(told: Receiver, tmp_path: Path) -> Iterator[Server]:
    """Yield an Alertmanager that notifies `told` at once."""
    yield from started(alertmanager_server(tmp_path, told.url), "prometheus-alertmanager")

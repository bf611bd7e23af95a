"""A real Alertmanager, and the receiver of its notifications."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.receiver import Receiver
from ..support.servers import Server, alertmanager_server, started


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Yield the receiver of Alertmanager's notifications."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def server(receiver: Receiver, tmp_path: Path) -> Iterator[Server]:
    """Yield an Alertmanager that notifies `receiver` at once."""
    yield from started(alertmanager_server(tmp_path, receiver.url), "prometheus-alertmanager")

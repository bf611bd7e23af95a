"""Fixtures of the monitoring tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenpulse_mw.monitoring import write_files


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a read-only directory with all files for a gateway on this machine."""
    directory = tmp_path_factory.mktemp("monitoring")
    write_files(directory)
    return directory

"""What the tests of the files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenpulse_mw.monitoring import write_files


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all files, for a gateway on this machine; to be read only."""
    directory = tmp_path_factory.mktemp("monitoring")
    write_files(directory)
    return directory

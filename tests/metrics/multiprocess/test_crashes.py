"""Worker that crashes between any two lines of code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tokenpulse_mw.metrics import multiprocess
from tokenpulse_mw.metrics.multiprocess import WorkerFiles

from .samples import COUNTER, GAUGE, HISTOGRAM, client_samples, merged_samples, row_of, value

PACKAGE = str(Path(multiprocess.__file__).parent)
LONG = "x" * 3000  # a few rows fill a file

Folder = dict[str, bytes]


def folders_during(action: Callable[[], object], folder: Path) -> list[Folder]:
    """Return the content of `folder` before each line of the package that `action` runs."""
    folders: list[Folder] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        content = {path.name: path.read_bytes() for path in folder.iterdir()}
        if content not in folders[-1:]:
            folders.append(content)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return folders


def count(folder: Path) -> None:
    """Run a worker that counts in each row as soon as it exists."""
    files = WorkerFiles(folder)
    for family, *labels in ((COUNTER, "b", "ok"), (HISTOGRAM, "b"), (GAUGE, "b")):
        row_of(files, family, *labels)[0] += 1
    for number in range(6):
        row_of(files, HISTOGRAM, f"{number}{LONG}")[0] += 1
    files.close()


def test_crash_at_any_line_keeps_all_counts(tmp_path: Path) -> None:
    """Both collectors read complete rows, and the next worker continues to count in them.

    The steps are those of a worker that takes over the slot of a crashed worker, creates missing
    files, extends a file, and ends.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    row_of(WorkerFiles(folder), COUNTER, "a", "ok")[0] += 5

    crashes = folders_during(lambda: count(folder), folder)

    sizes = {len(content.get("histogram_0-tokenpulse.db", b"")) for content in crashes}
    assert len(sizes) == 3, "missing, created, extended"
    before: set[object] = set()
    for number, content in enumerate(crashes):
        copy = tmp_path / str(number)
        copy.mkdir()
        for name, data in content.items():
            (copy / name).write_bytes(data)
        client_samples(copy)
        samples = merged_samples(copy)
        assert samples == client_samples(copy)
        assert before <= samples.keys()
        assert value(copy, COUNTER, "a", "ok") == [5]
        before = set(samples)
        row_of(WorkerFiles(copy), COUNTER, "a", "ok")[0] += 1
        row_of(WorkerFiles(copy), HISTOGRAM, "new")[0] += 1
        assert value(copy, COUNTER, "a", "ok") == [6]
        assert value(copy, HISTOGRAM, "new") == [1, 0, 0, 0, 0]
        assert merged_samples(copy) == client_samples(copy)

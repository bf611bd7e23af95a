"""A worker that is killed between any two lines of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tokenpulse_mw.metrics import multiprocess
from tokenpulse_mw.metrics.multiprocess import WorkerFiles

from .samples import COUNTER, GAUGE, HISTOGRAM, ours, row_of, stock, value

OURS = str(Path(multiprocess.__file__).parent)


LONG = "x" * 3000  # so that a few rows fill a file


Folder = dict[str, bytes]


def folders_while(act: Callable[[], object], folder: Path) -> list[Folder]:
    """What is in `folder` before each line of the workers' code that `act` runs."""
    seen: list[Folder] = []

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        there = {path.name: path.read_bytes() for path in folder.iterdir()}
        if there not in seen[-1:]:
            seen.append(there)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        act()
    finally:
        sys.settrace(before)
    return seen


def count(folder: Path) -> None:
    """What a worker does; each row is counted in as soon as it is there."""
    files = WorkerFiles(folder)
    for family, *labels in ((COUNTER, "b", "ok"), (HISTOGRAM, "b"), (GAUGE, "b")):
        row_of(files, family, *labels)[0] += 1
    for number in range(6):
        row_of(files, HISTOGRAM, f"{number}{LONG}")[0] += 1
    files.close()


def test_any_crash_leaves_what_was_counted(tmp_path: Path) -> None:
    """At each step both collectors find whole rows, and the next worker goes on with them.

    The steps are those of a worker that takes over from a dead one, makes the files that are
    missing, lets one grow, and ends.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    row_of(WorkerFiles(folder), COUNTER, "a", "ok")[0] += 5

    crashes = folders_while(lambda: count(folder), folder)

    sizes = {len(there.get("histogram_0-tokenpulse.db", b"")) for there in crashes}
    assert len(sizes) == 3, "there is none, there is one, and it has grown"
    before: set[object] = set()
    for number, there in enumerate(crashes):
        copy = tmp_path / str(number)
        copy.mkdir()
        for name, content in there.items():
            (copy / name).write_bytes(content)
        stock(copy)
        found = ours(copy)
        assert found == stock(copy)
        assert before <= found.keys()
        assert value(copy, COUNTER, "a", "ok") == [5]
        before = set(found)
        row_of(WorkerFiles(copy), COUNTER, "a", "ok")[0] += 1
        row_of(WorkerFiles(copy), HISTOGRAM, "new")[0] += 1
        assert value(copy, COUNTER, "a", "ok") == [6]
        assert value(copy, HISTOGRAM, "new") == [1, 0, 0, 0, 0]
        assert ours(copy) == stock(copy)

"""A process that forks a worker, and what is left of both.

    python -m tests.support.worker_fork FOLDER PARENT_COUNTS CHILD_COUNTS

Both may count (`yes`) or not (`no`). Then the parent gives its files up, and another worker starts
while the child still lives. Prints whether the child was told to forget its rows, and the files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tokenpulse_mw.metrics.multiprocess import WorkerFiles

from ..metrics.multiprocess.samples import COUNTER, row_of


def main(folder: str, parent_counts: bool, child_counts: bool) -> None:
    """Fork, count, and tell."""
    forgotten: list[bool] = []
    files = WorkerFiles(folder, on_fork=lambda: forgotten.append(True))
    if parent_counts:
        row_of(files, COUNTER, "a", "ok")[0] += 1
    (ready, tell), (going, go) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if child_counts:
            row_of(files, COUNTER, "a", "ok")[0] += 10
        os.write(tell, b".")
        os.read(going, 1)
        sys.stdout.write(
            json.dumps([forgotten, sorted(path.name for path in Path(folder).iterdir())])
        )
        sys.stdout.flush()
        os._exit(0)
    os.read(ready, 1)
    if parent_counts:
        row_of(files, COUNTER, "a", "ok")[0] += 100
    assert not forgotten
    files.close()
    row_of(WorkerFiles(folder), COUNTER, "b", "ok")
    os.write(go, b".")
    assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "yes", sys.argv[3] == "yes")

"""Worker that forks, to be run as a separate process.

    python -m tests.support.worker_fork FOLDER PARENT_COUNTS CHILD_COUNTS

PARENT_COUNTS and CHILD_COUNTS are `yes` or `no`. The parent closes its files, and another worker
starts while the child is alive. Prints the calls of `on_fork` in the child, and the file names.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tokenpulse_mw.metrics.multiprocess import WorkerFiles

from ..metrics.multiprocess.samples import COUNTER, row_of


def main(folder: str, parent_counts: bool, child_counts: bool) -> None:
    """Fork, count in both processes, and print the result from the child."""
    resets: list[bool] = []
    files = WorkerFiles(folder, on_fork=lambda: resets.append(True))
    if parent_counts:
        row_of(files, COUNTER, "a", "ok")[0] += 1
    (child_ready, report_ready), (may_exit, allow_exit) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if child_counts:
            row_of(files, COUNTER, "a", "ok")[0] += 10
        os.write(report_ready, b".")
        os.read(may_exit, 1)
        sys.stdout.write(json.dumps([resets, sorted(path.name for path in Path(folder).iterdir())]))
        sys.stdout.flush()
        os._exit(0)
    os.read(child_ready, 1)
    if parent_counts:
        row_of(files, COUNTER, "a", "ok")[0] += 100
    assert not resets
    files.close()
    row_of(WorkerFiles(folder), COUNTER, "b", "ok")
    os.write(allow_exit, b".")
    assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "yes", sys.argv[3] == "yes")

"""Workers that count until they are killed, forked one after another, to be run in a process.

    python -m tests.support.worker_farm FOLDER WORKERS DEATHS SEED

Keeps so many at work at a time until so many have died, and prints how many counts they had told
it of before they did.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from itertools import count
from pathlib import Path

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.multiprocess import WorkerFiles

JOBS = Family("jobs_total", "counter", "Jobs done", ("name",))
SECONDS = Family("job_seconds", "histogram", "Time of jobs", ("name",), (0.5, 1.0, 2.0))
RUNNING = Family("jobs_running", "gauge", "Jobs being done")


def work(folder: str, told: int) -> None:
    """Count for ever, and tell of each count behind it."""
    files = WorkerFiles(folder)
    for number in count():
        row = files.new_row(JOBS, (number % 200,))
        seconds = files.new_row(SECONDS, (number % 200,))
        running = files.new_row(RUNNING, ())
        running[0] = 1
        row[0] += 1
        seconds[0] += 0.75
        seconds[2] += 1
        os.write(told, b".")


def hire(folder: str) -> tuple[int, int]:
    """A worker's process id, and where it tells of what it counts."""
    telling, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(folder, told)
        finally:
            os._exit(1)
    os.close(told)
    return child, telling


def kill_after(worker: tuple[int, int], counts: int) -> int:
    """Kill a worker when it has told of so many counts; gives how many it has told of at last."""
    child, telling = worker
    heard = 0
    while heard < counts:
        heard += len(os.read(telling, counts - heard))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while rest := len(os.read(telling, 65536)):
        heard += rest
    os.close(telling)
    return heard


def main(folder: str, workers: int, deaths: int, seed: int) -> None:
    """Run the farm."""
    chance = random.Random(seed)
    heard = 0
    at_work = [hire(folder) for _ in range(workers)]
    for _ in range(deaths):
        heard += kill_after(at_work.pop(0), chance.choice((0, 1, 10, chance.randrange(300))))
        at_work.append(hire(folder))
    for worker in at_work:
        heard += kill_after(worker, 1)
    sys.stdout.write(f"{heard}\n")


if __name__ == "__main__":
    main(str(Path(sys.argv[1])), *map(int, sys.argv[2:]))

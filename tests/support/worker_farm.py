"""Workers that count until they are killed, to be run as a separate process.

    python -m tests.support.worker_farm FOLDER WORKERS DEATHS SEED

Replaces each killed worker until DEATHS of them were killed, so that WORKERS always run. Prints
the number of counts that they reported.
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
RUNNING = Family("jobs_running", "gauge", "Jobs in progress")


def work(folder: str, reports: int) -> None:
    """Count until killed, and write a byte to the pipe `reports` after each count."""
    files = WorkerFiles(folder)
    for number in count():
        row = files.new_row(JOBS, (number % 200,))
        seconds = files.new_row(SECONDS, (number % 200,))
        running = files.new_row(RUNNING, ())
        running[0] = 1
        row[0] += 1
        seconds[0] += 0.75
        seconds[2] += 1
        os.write(reports, b".")


def start_worker(folder: str) -> tuple[int, int]:
    """Fork a worker; return its process id and the pipe from which its reports are read."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(folder, writer)
        finally:
            os._exit(1)
    os.close(writer)
    return child, reader


def kill_after(worker: tuple[int, int], counts: int) -> int:
    """Kill a worker after it reported `counts`; return the number of all that it reported."""
    child, reader = worker
    reported = 0
    while reported < counts:
        reported += len(os.read(reader, counts - reported))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while rest := len(os.read(reader, 65536)):
        reported += rest
    os.close(reader)
    return reported


def main(folder: str, workers: int, deaths: int, seed: int) -> None:
    """Run the workers, and print the number of reported counts."""
    chance = random.Random(seed)
    reported = 0
    running = [start_worker(folder) for _ in range(workers)]
    for _ in range(deaths):
        reported += kill_after(running.pop(0), chance.choice((0, 1, 10, chance.randrange(300))))
        running.append(start_worker(folder))
    for worker in running:
        reported += kill_after(worker, 1)
    sys.stdout.write(f"{reported}\n")


if __name__ == "__main__":
    main(str(Path(sys.argv[1])), *map(int, sys.argv[2:]))

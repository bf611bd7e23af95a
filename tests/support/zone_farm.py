"""Workers that share a limit in a file, to be run as a separate process.

    python -m tests.support.zone_farm share PATH LIMIT WORKERS HITS HITS_PER_SECOND PATIENCE
    python -m tests.support.zone_farm kill PATH LIMIT WORKERS DEATHS SEED
    python -m tests.support.zone_farm stop PATH LIMIT

`share` prints the hits that were allowed, and those that were decided without a lock. `kill`
replaces each killed worker until DEATHS of them were killed, and prints the hits whose allowance
was reported, those that are allowed afterwards, and the sets whose lock was not released. `stop`
stops itself while it has the lock of the key "a".
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable

from tokenpulse_mw import ZoneLimiter
from tokenpulse_mw.ratelimit.zone import locks

from .waiting import PATIENCE


def limiter_of(path: str, limit: str) -> ZoneLimiter:
    """Return a limiter with few sets, so that workers compete for them."""
    return ZoneLimiter(f"{limit}/day", path=path, max_keys=8)


def paused(limiter: ZoneLimiter) -> int:
    """Return the number of sets whose lock was not released in time."""
    table = limiter._connection.table(time.monotonic())
    assert table is not None
    return len(table.file.locks._paused)


def share(path: str, limit: str, workers: str, hits: str, rate: str, patience: str) -> None:
    """Let each worker send `hits` for one key, and print how many of all were allowed."""
    locks._PATIENCE = float(patience)
    limiter, (reader, writer) = limiter_of(path, limit), os.pipe()
    begin = time.monotonic() + 0.1
    children = []
    for number in range(int(workers)):
        children.append(child := os.fork())
        if child == 0:
            allowed = 0
            for turn in range(int(hits)):
                due = begin + (turn + number / int(workers)) / float(rate)
                time.sleep(max(due - time.monotonic(), 0))
                allowed += limiter.hit("a").allowed
            os.write(writer, b"%8d%8d" % (allowed, paused(limiter)))
            os._exit(0)
    os.close(writer)
    results = [os.read(reader, 16) for _ in children]
    for child in children:
        os.waitpid(child, 0)
    totals = [sum(int(result[start : start + 8]) for result in results) for start in (0, 8)]
    sys.stdout.write(json.dumps(totals))


def start_worker(limiter: ZoneLimiter, writer: int) -> int:
    """Fork a worker that reports each allowed hit as a byte, until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                if limiter.hit("a").allowed:
                    os.write(writer, b".")
                time.sleep(0.0005)
        finally:
            os._exit(1)
    return child


def kill(path: str, limit: str, workers: str, deaths: str, seed: str) -> None:
    """Kill workers at random times, and print the hits that were allowed."""
    locks._PATIENCE = PATIENCE
    rng, limiter, (reader, writer) = random.Random(seed), limiter_of(path, limit), os.pipe()
    os.set_blocking(reader, False)
    children = [start_worker(limiter, writer) for _ in range(int(workers))]
    reported = 0
    for death in range(int(deaths) + int(workers)):
        time.sleep(rng.random() * 0.02)
        victim = children.pop(rng.randrange(len(children)))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        if death < int(deaths):
            children.append(start_worker(limiter, writer))
        while True:
            try:
                reported += len(os.read(reader, 65536))
            except BlockingIOError:
                break
    remaining = 0
    while limiter.hit("a").allowed:
        remaining += 1
    sys.stdout.write(json.dumps([reported, remaining, paused(limiter)]))


def stop(path: str, limit: str) -> None:
    """Stop this process while it has the lock of a set."""
    limiter = limiter_of(path, limit)
    limiter.hit("a")
    table = limiter._connection.table(time.monotonic())
    assert table is not None
    address = table.addresses.add("a")
    assert table.file.locks.acquire(address.set, address.lock)
    os.kill(os.getpid(), signal.SIGSTOP)
    table.file.locks.release(address.unlock)
    sys.stdin.read()


if __name__ == "__main__":
    modes: dict[str, Callable[..., None]] = {"share": share, "kill": kill, "stop": stop}
    modes[sys.argv[1]](*sys.argv[2:])

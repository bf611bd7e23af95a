"""Locks of real processes: they share a limit exactly, are killed, and are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ...support.waiting import PATIENCE, wait_until
from ...support.zone_farm import limiter_of

ROOT = Path(__file__).parents[3]


def run(*arguments: object) -> list[int]:
    """Return the result of `tests.support.zone_farm`."""
    command = [sys.executable, "-m", "tests.support.zone_farm", *map(str, arguments)]
    result: list[int] = json.loads(subprocess.check_output(command, cwd=ROOT, timeout=2 * PATIENCE))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_processes_get_exactly_the_limit(workers: int, tmp_path: Path) -> None:
    """Workers that hit one key at the same time allow exactly its limit together."""
    path = tmp_path / "limit"

    assert run("share", path, 500, workers, 800 // workers, 500, PATIENCE) == [500, 0]


@pytest.mark.slow
def test_killed_workers_leave_no_lock_and_exceed_no_limit(tmp_path: Path) -> None:
    """Of each killed worker, at most one allowed hit was not reported."""
    limit, deaths, workers = 5000, 60, 4

    reported, remaining, paused = run("kill", tmp_path / "limit", limit, workers, deaths, 2026)

    assert limit - deaths - workers <= reported + remaining <= limit
    assert reported > deaths
    assert paused == 0


@pytest.mark.slow
def test_stopped_worker_does_not_stop_others(tmp_path: Path) -> None:
    """Others wait for its lock at most once in a while, and decide without it.

    When the worker is killed, its lock is free.
    """
    path = tmp_path / "limit"
    command = [sys.executable, "-m", "tests.support.zone_farm", "stop", str(path), "100"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as stopped:
        _, status = os.waitpid(stopped.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        limiter = limiter_of(str(path), "100")
        began = time.monotonic()
        allowed = sum(limiter.hit("a").allowed for _ in range(1000))
        took = time.monotonic() - began

        assert allowed == (100 - 1) // 2  # the share of one of two workers
        assert took < 5  # 1,000 waits of 5 ms
        assert limiter.peek("b").remaining == 100

        stopped.send_signal(signal.SIGKILL)
    wait_until(lambda: not limiter.hit("a", 0).degraded and limiter._debts.count == 0)
    other = limiter_of(str(path), "100")
    assert other.peek("a").remaining == 100 - 1 - allowed

"""Real worker processes that are killed while they count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenpulse_mw.metrics.multiprocess import Workers

from .samples import ours, stock

pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[3]


WORKERS, DEATHS = 4, 40


def farm(folder: Path, seed: int) -> subprocess.Popen[str]:
    """Workers that are killed one after another; prints what they had told of by then."""
    numbers = [str(number) for number in (WORKERS, DEATHS, seed)]
    command = [sys.executable, "-m", "tests.support.worker_farm", str(folder), *numbers]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def total(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str) -> float:
    """The sum of all series of one name."""
    return sum(value for (sample, _), value in samples.items() if sample == name)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_kill_at_any_time_loses_nothing_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    """Each worker may have counted once more than it had told of, and no scrape sees less.

    While they are killed and replaced, scrapes by both collectors only ever go up, and there are
    never more files than workers.
    """
    seen: dict[str, float] = {"ours": 0, "stock": 0}
    workers = Workers(tmp_path)
    with farm(tmp_path, seed) as running:
        while running.poll() is None:
            series = workers.series()
            mine = sum(row[0] for row in series["jobs_total"][1].values()) if series else 0
            now = {"ours": mine, "stock": total(stock(tmp_path), "jobs_total")}
            assert all(now[name] >= seen[name] for name in now), (now, seen)
            seen = now
        assert running.stdout is not None
        told = int(running.stdout.read())

    after = ours(tmp_path)
    assert running.returncode == 0
    assert told <= total(after, "job_seconds_count") <= total(after, "jobs_total")
    assert total(after, "jobs_total") <= told + DEATHS + WORKERS
    assert after == stock(tmp_path)
    assert total(after, "jobs_running") == 0
    assert len(list(tmp_path.glob("*.db"))) <= 4 * WORKERS

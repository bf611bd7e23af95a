"""Real worker processes that are killed while they count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenpulse_mw.metrics.multiprocess import Workers

from .samples import client_samples, merged_samples

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WORKERS, DEATHS = 4, 40


def farm(folder: Path, seed: int) -> subprocess.Popen[str]:
    """Start workers that are killed one after another; prints the number of reported counts."""
    numbers = [str(number) for number in (WORKERS, DEATHS, seed)]
    command = [sys.executable, "-m", "tests.support.worker_farm", str(folder), *numbers]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def total(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str) -> float:
    """Return the sum of all series of `name`."""
    return sum(value for (sample, _), value in samples.items() if sample == name)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_at_any_time_loses_and_duplicates_no_count(tmp_path: Path, seed: int) -> None:
    """A worker may have counted once more than it reported, and no scrape decreases.

    While workers are killed and replaced, both collectors are scraped, and there are never more
    files than workers.
    """
    last: dict[str, float] = {"workers": 0, "client": 0}
    workers = Workers(tmp_path)
    with farm(tmp_path, seed) as running:
        while running.poll() is None:
            series = workers.series()
            jobs = sum(row[0] for row in series["jobs_total"][1].values()) if series else 0
            now = {"workers": jobs, "client": total(client_samples(tmp_path), "jobs_total")}
            assert all(now[name] >= last[name] for name in now), (now, last)
            last = now
        assert running.stdout is not None
        reported = int(running.stdout.read())

    after = merged_samples(tmp_path)
    assert running.returncode == 0
    assert reported <= total(after, "job_seconds_count") <= total(after, "jobs_total")
    assert total(after, "jobs_total") <= reported + DEATHS + WORKERS
    assert after == client_samples(tmp_path)
    assert total(after, "jobs_running") == 0
    assert len(list(tmp_path.glob("*.db"))) <= 4 * WORKERS

"""A process that is killed at any moment has lost nothing that it was told is kept."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from tokenpulse_mw.alerts.store import AlertStore, SQLAlertStore

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
Said = dict[str, set[str]]


@pytest.fixture
def anyio_backend() -> str:
    """What SQLAlchemy runs on."""
    return "asyncio"


def lines_until_killed(url: str, prefix: str, lines: int) -> list[str]:
    """What a worker has said when it is killed, some time after so many lines."""
    command = [sys.executable, "-m", "tests.alerts.store.killed_worker", url, prefix]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        said = [worker.stdout.readline() for _ in range(lines)]
        worker.kill()
        rest = worker.stdout.read()
    assert worker.returncode == -9
    said += rest.splitlines(keepends=True)
    return [line.strip() for line in said if line.endswith("\n")]


def by_word(lines: Iterable[str]) -> Said:
    """The numbers that were said with each word."""
    said: Said = defaultdict(set)
    for line in lines:
        word, number = line.split()
        said[word].add(number)
    return said


async def check(store: AlertStore, said: Said) -> None:
    """All that was said is so, and nothing is there twice or by half."""
    kept = await store.load()
    alerts = {each.id: each for each in kept.alerts}
    waiting = [each.id for each in kept.notifications]
    assert len(alerts) == len(kept.alerts)
    assert len(waiting) == len(set(waiting))
    assert said["keep"] <= alerts.keys()
    assert all(alerts[number].ack is not None for number in said["seen"])
    assert said["keep"] - said["begin"] <= set(waiting), "what nobody delivered waits"
    assert not said["gone"] & set(waiting), "what was delivered does not"
    for number in alerts:
        assert len(await store.transitions(number)) == 1
        assert number in waiting or number in said["begin"], "a round is kept as a whole"
    versions = [each.version for each in reversed(await store.history(1000))]
    assert versions == list(range(1, len(versions) + 1))
    assert {int(number) for number in said["version"]} <= set(versions)


@pytest.mark.anyio
async def test_a_kill_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Workers that follow each other on one file are killed anywhere in their work.

    Whatever one of them was told is kept, the next one finds, once.
    """
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    chance = random.Random()
    lines: list[str] = []
    for prefix in ("first", "second", "third"):
        lines += lines_until_killed(url, prefix, chance.randint(1, 150))

        store = SQLAlertStore(url)
        await check(store, by_word(lines))
        await store.aclose()

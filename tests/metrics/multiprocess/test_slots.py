"""Slots of worker processes in a folder."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tokenpulse_mw.metrics.multiprocess import slots
from tokenpulse_mw.metrics.multiprocess.slots import Slot, acquire_slot, is_live, slot_files


def names(*acquired: Slot) -> list[str]:
    """Return the names of the counter files of slots."""
    return [slot.path("counter").name for slot in acquired]


def test_concurrent_workers_have_different_slots(tmp_path: Path) -> None:
    """Two live workers never write to the same file."""
    first, second = acquire_slot(tmp_path), acquire_slot(tmp_path)

    assert names(first, second) == ["counter_0-tokenpulse.db", "counter_1-tokenpulse.db"]


def test_slot_is_free_when_its_owner_is_discarded(tmp_path: Path) -> None:
    """The lock of a discarded slot is released without a call of `close`."""
    first = acquire_slot(tmp_path)
    path = first.path("counter")
    del first

    assert acquire_slot(tmp_path).path("counter") == path


def test_lowest_free_slot_is_reused(tmp_path: Path) -> None:
    """There are never more files than concurrent workers."""
    workers = [acquire_slot(tmp_path) for _ in range(4)]
    for number in (2, 0, 3, 1) * 10:
        workers[number].close()
        workers[number] = acquire_slot(tmp_path)

    assert len(set(names(*workers))) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"worker_{number}-tokenpulse.lock" for number in range(4)
    ]


def test_acquired_slot_has_no_gauges(tmp_path: Path) -> None:
    """Gauges of the previous worker are removed, also without a scrape in between."""
    acquire_slot(tmp_path).path("gauge").touch()

    acquire_slot(tmp_path)

    assert not list(tmp_path.glob("gauge*"))


def test_exhausted_slots_raise_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is raised if all slots are in use, because a slot is never shared."""
    monkeypatch.setattr(slots, "MAX_SLOTS", 1)
    first = acquire_slot(tmp_path)

    with pytest.raises(OSError, match="all 1 worker slots are in use"):
        acquire_slot(tmp_path)
    assert names(first)


def test_gauges_count_while_their_worker_is_alive(tmp_path: Path) -> None:
    """The gauge file of an ended worker is removed by the next check."""
    slot = acquire_slot(tmp_path)
    slot.path("gauge").touch()
    (file,) = slot_files(tmp_path)
    assert is_live(tmp_path, file)

    slot.close()

    assert not is_live(tmp_path, file)
    assert not list(slot_files(tmp_path))
    assert not is_live(tmp_path, file)


def test_concurrent_checks_do_not_look_like_a_worker(tmp_path: Path) -> None:
    """A shared lock of another scrape does not keep gauges alive."""
    slot = acquire_slot(tmp_path)
    slot.path("gauge").touch()
    (file,) = slot_files(tmp_path)
    slot.close()

    with (tmp_path / "worker_0-tokenpulse.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert not is_live(tmp_path, file)


def test_gauge_without_a_lock_file_does_not_count(tmp_path: Path) -> None:
    """A gauge file without a lock is not removed, since it may not belong to a worker."""
    path = tmp_path / "gauge_livesum_7-tokenpulse.db"
    path.touch()
    (file,) = slot_files(tmp_path)

    assert not is_live(tmp_path, file)
    assert path.exists()


def test_slot_files_ignores_other_files(tmp_path: Path) -> None:
    """Files of prometheus_client in the same folder are not files of a slot."""
    others = ["counter_1.db", "counter_99999-tokenpulse.db", "summary_1-tokenpulse.db", "notes"]
    for name in (*others, "histogram_3-tokenpulse.db"):
        (tmp_path / name).touch()
    (tmp_path / "counter_3-tokenpulse.db").mkdir()

    files = [(file.slot, file.kind) for file in slot_files(tmp_path)]

    assert files == [(3, "histogram")]

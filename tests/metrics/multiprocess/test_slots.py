"""Slots: which worker has which files."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tokenpulse_mw.metrics.multiprocess import slots
from tokenpulse_mw.metrics.multiprocess.slots import Slot, counts, slot_files, take


def names(*taken: Slot) -> list[str]:
    """The counter files of `taken`."""
    return [slot.path("counter").name for slot in taken]


def test_each_worker_has_its_own(tmp_path: Path) -> None:
    """Two who live at the same time never write to one file, whatever process they are in."""
    first, second = take(tmp_path), take(tmp_path)

    assert names(first, second) == ["counter_0-tokenpulse.db", "counter_1-tokenpulse.db"]


def test_a_place_is_free_when_its_holder_is_gone(tmp_path: Path) -> None:
    """Nothing has to be said for it."""
    first = take(tmp_path)
    path = first.path("counter")
    del first

    assert take(tmp_path).path("counter") == path


def test_the_lowest_that_is_free_is_taken_again(tmp_path: Path) -> None:
    """However many workers come and go, there are never more files than workers at one time."""
    workers = [take(tmp_path) for _ in range(4)]
    for number in (2, 0, 3, 1) * 10:
        workers[number].close()
        workers[number] = take(tmp_path)

    assert len(set(names(*workers))) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"worker_{number}-tokenpulse.lock" for number in range(4)
    ]


def test_the_gauges_of_the_last_one_end(tmp_path: Path) -> None:
    """Who takes a place over starts with no gauges, also where nobody has scraped meanwhile."""
    take(tmp_path).path("gauge").touch()

    take(tmp_path)

    assert not list(tmp_path.glob("gauge*"))


def test_there_is_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker too many is told so, instead of being given another's place."""
    monkeypatch.setattr(slots, "MAX_SLOTS", 1)
    first = take(tmp_path)

    with pytest.raises(OSError, match="1 workers are counting there already"):
        take(tmp_path)
    assert names(first)


def test_gauges_count_while_their_worker_lives(tmp_path: Path) -> None:
    """Then their file is removed by whoever looks first."""
    slot = take(tmp_path)
    slot.path("gauge").touch()
    (file,) = slot_files(tmp_path)
    assert counts(tmp_path, file)

    slot.close()

    assert not counts(tmp_path, file)
    assert not list(slot_files(tmp_path))
    assert not counts(tmp_path, file)


def test_two_who_look_do_not_take_each_other_for_the_worker(tmp_path: Path) -> None:
    """Scrapes at the same time find the same workers dead."""
    slot = take(tmp_path)
    slot.path("gauge").touch()
    (file,) = slot_files(tmp_path)
    slot.close()

    with (tmp_path / "worker_0-tokenpulse.lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not counts(tmp_path, file)


def test_a_gauge_whose_place_was_never_taken_does_not_count(tmp_path: Path) -> None:
    """It is left where it is: it may be no file of ours."""
    path = tmp_path / "gauge_livesum_7-tokenpulse.db"
    path.touch()
    (file,) = slot_files(tmp_path)

    assert not counts(tmp_path, file)
    assert path.exists()


def test_other_files_are_not_ours(tmp_path: Path) -> None:
    """Those of prometheus_client's own metrics above all."""
    others = ["counter_1.db", "counter_99999-tokenpulse.db", "summary_1-tokenpulse.db", "notes"]
    for name in (*others, "histogram_3-tokenpulse.db"):
        (tmp_path / name).touch()
    (tmp_path / "counter_3-tokenpulse.db").mkdir()

    found = [(file.slot, file.kind) for file in slot_files(tmp_path)]

    assert found == [(3, "histogram")]

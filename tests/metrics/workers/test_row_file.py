"""RowFile: one worker's file, as it is made, found, damaged and full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.full_disk import largest_file
from tokenpulse_mw.metrics.workers import row_file
from tokenpulse_mw.metrics.workers.contents import HEAD, contents, read_used
from tokenpulse_mw.metrics.workers.entries import INTEGER
from tokenpulse_mw.metrics.workers.row_file import SMALLEST, RowFile

from .samples import HISTOGRAM

NAME = "histogram_0-tokenpulse.db"


def labels_in(path: Path) -> list[str]:
    """The labels of the rows in a file."""
    return [row.labels[0] for row in contents(read_used(path), "histogram").rows]


def test_a_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    """Who reads it sees what was added just now."""
    file = RowFile(tmp_path / NAME, "histogram")
    row = file.new_row(HISTOGRAM, ("a",))

    row[0] += 1.5

    used = read_used(tmp_path / NAME)
    (found,) = contents(used, "histogram").rows
    assert list(memoryview(used.data).cast("d")[found.place]) == [1.5, 0, 0, 0, 0]


def test_rows_stay_while_the_file_grows(tmp_path: Path) -> None:
    """A row handed out before goes on counting into the same file."""
    file = RowFile(tmp_path / NAME, "histogram")
    first = file.new_row(HISTOGRAM, ("first",))

    for number in range(1000):
        file.new_row(HISTOGRAM, (str(number),))[1] += number
    first[0] += 7

    assert (tmp_path / NAME).stat().st_size > SMALLEST
    same = file.row(HISTOGRAM, ("first",))
    assert same is not None
    assert same[0] == 7
    assert len(labels_in(tmp_path / NAME)) == file.rows("job_seconds") == 1001


def test_who_comes_after_goes_on_with_the_rows(tmp_path: Path) -> None:
    """They are found again, and not written a second time."""
    RowFile(tmp_path / NAME, "histogram").new_row(HISTOGRAM, ("a",))[0] = 3

    file = RowFile(tmp_path / NAME, "histogram")

    row = file.row(HISTOGRAM, ("a",))
    assert row is not None
    assert row[0] == 3
    assert file.row(HISTOGRAM, ("b",)) is None
    assert file.damage is None


@pytest.mark.parametrize("left", [0, 3, 8, 100, 600])
def test_a_file_that_was_cut_is_mended(tmp_path: Path, left: int) -> None:
    """Its whole rows go on counting, and it can be written and read as any other."""
    path = tmp_path / NAME
    file = RowFile(path, "histogram")
    for name in ("a", "b"):
        file.new_row(HISTOGRAM, (name,))
    whole = ["a"] if left == 600 else []
    path.write_bytes(path.read_bytes()[:left])

    mended = RowFile(path, "histogram")
    mended.new_row(HISTOGRAM, ("c",))

    assert mended.damage is not None
    assert labels_in(path) == [*whole, "c"]
    assert RowFile(path, "histogram").damage is None


def test_a_mended_file_has_another_stamp(tmp_path: Path) -> None:
    """So whoever has read it before knows that rows may lie elsewhere now."""
    path = tmp_path / NAME
    RowFile(path, "histogram").new_row(HISTOGRAM, ("a",))
    before = read_used(path).stamp
    path.write_bytes(path.read_bytes()[:100])

    RowFile(path, "histogram")

    assert read_used(path).stamp != before


@pytest.mark.parametrize("length", [-8, 0, 7, 1 << 30])
def test_a_length_that_cannot_be_is_damage(tmp_path: Path, length: int) -> None:
    """It is told, and what rows there are is found if it can be."""
    path = tmp_path / NAME
    RowFile(path, "histogram").new_row(HISTOGRAM, ("a",))
    path.write_bytes(INTEGER.pack(length) + path.read_bytes()[4:])

    used = read_used(path)

    assert used.damage is not None
    assert [row.labels for row in contents(used, "histogram").rows] == [("a",)] * (length > HEAD)


def test_what_was_not_yet_counted_as_used_is_written_over(tmp_path: Path) -> None:
    """A worker that is killed between writing a row and telling of it leaves no trace."""
    path = tmp_path / NAME
    file = RowFile(path, "histogram")
    file.new_row(HISTOGRAM, ("a",))
    end = len(read_used(path).data)
    file.new_row(HISTOGRAM, ("killed here",))[0] = 5
    with path.open("r+b") as head:
        head.write(INTEGER.pack(end))

    row = RowFile(path, "histogram").new_row(HISTOGRAM, ("b",))

    assert labels_in(path) == ["a", "b"]
    assert list(row) == [0] * 5


def test_a_file_that_was_never_finished_is_no_obstacle(tmp_path: Path) -> None:
    """A worker that is killed while it makes its file leaves one that is made anew."""
    (tmp_path / NAME).with_suffix(".new").write_bytes(b"half")

    RowFile(tmp_path / NAME, "histogram").new_row(HISTOGRAM, ("a",))

    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert labels_in(tmp_path / NAME) == ["a"]


def test_a_full_disk_is_an_error_and_no_signal(tmp_path: Path) -> None:
    """The rows that fit go on counting; when there is room again, new ones come."""
    file = RowFile(tmp_path / NAME, "histogram")
    row = file.new_row(HISTOGRAM, ("a",))
    added = 1

    with largest_file(SMALLEST + 100):
        with pytest.raises(OSError, match="File too large"):  # noqa: PT012 - whichever is one too many
            while added < 1000:
                file.new_row(HISTOGRAM, (str(added),))
                added += 1
        row[0] += 1

    file.new_row(HISTOGRAM, ("b",))
    assert row[0] == 1
    assert len(labels_in(tmp_path / NAME)) == added + 1


def test_a_file_is_never_larger_than_its_head_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that it is full."""
    monkeypatch.setattr(row_file, "LARGEST", 700)
    file = RowFile(tmp_path / NAME, "histogram")
    file.new_row(HISTOGRAM, ("a",))

    with pytest.raises(OSError, match="a file of rows is full"):
        file.new_row(HISTOGRAM, ("b",))

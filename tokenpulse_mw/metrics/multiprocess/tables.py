"""Tables that all workers of a folder fill together."""

from __future__ import annotations

from ..rows import Series
from ..tables import Tables
from .reader import Workers, stock_registry
from .writer import WorkerFiles


class WorkerTables(Tables):
    """This worker's rows, and what a scrape of any worker shows: those of all.

    Args:
        folder: That of all workers together, as an absolute path.
        most: Series that each family keeps for one worker.
        buckets: Upper bounds of the histograms of durations, in seconds.

    Raises:
        ValueError: The folder is missing or cannot be written to, or files cannot be locked here.
    """

    def __init__(self, folder: str, *, most: int, buckets: tuple[float, ...]) -> None:
        files = WorkerFiles(
            folder, most=most, on_overflow=self._overflowed, on_fork=self.reset_after_fork
        )
        self._files, self._workers = files, Workers(folder)
        super().__init__(most=most, buckets=buckets, new_row=files.new_row, serves=False)
        self.others = stock_registry(folder)

    def recover(self) -> None:
        """Move rows that are only in memory, or in deleted files, to the worker's files."""
        if self._files.recover():
            for rows in self.all:
                rows.renew()
            self.row_cache.clear()
            self.in_progress = []

    def series(self) -> list[Series]:
        """Every family with the rows of all workers added up."""
        found = self._workers.series()
        return [found.get(rows.family.name) or (rows.family, {}) for rows in self.all]

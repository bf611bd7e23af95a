"""Tables of one worker whose scrape merges all workers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ..families import Family
from ..rows import Labels, Row, Series, exposed
from ..tables import Tables
from .reader import Workers, client_registry
from .writer import WorkerFiles


class WorkerTables(Tables):
    """Rows of this worker; `series` merges the rows of all workers.

    Args:
        folder: Absolute path of the folder shared by all workers.
        max_series: Maximum number of series per family and worker.
        buckets: Upper bounds of the duration histograms in seconds.

    Raises:
        ValueError: The folder is missing or not writable, or the system does not support `flock`.
    """

    def __init__(self, folder: str, *, max_series: int, buckets: tuple[float, ...]) -> None:
        files = WorkerFiles(
            folder,
            max_series=max_series,
            on_overflow=self._count_overflow,
            on_fork=self.reset_after_fork,
        )
        self._files, self._workers = files, Workers(folder)
        super().__init__(
            max_series=max_series, buckets=buckets, new_row=files.new_row, serves=False
        )
        self.other_metrics = partial(client_registry, folder)

    def recover(self) -> None:
        """Write rows that are only in memory or in deleted files to the files of this worker."""
        if self._files.recover():
            for rows in self.all:
                rows.reopen()
            self.clear_caches()
            self.in_progress = []

    def own_series(self) -> list[Series]:
        """Return every family with the rows of the files of this worker.

        A family that an earlier worker of another version has left follows the one of this version.
        """
        own: dict[Family, Mapping[Labels, Row]] = {**self._files.rows()}
        current = [(rows.family, own.pop(rows.family, {})) for rows in self.all]
        return [*current, *own.items()]

    def workers(self) -> int:
        """Return the number of workers that count in the folder."""
        return self._workers.count()

    def series(self) -> list[Series]:
        """Return every family with the merged rows of all workers."""
        merged = self._workers.series()
        series = list[Series]()
        for rows in self.all:
            family, values = merged.get(rows.family.name) or (rows.family, {})
            series.append((family, exposed(rows.family, values)))
        return series

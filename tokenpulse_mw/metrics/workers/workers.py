"""What all workers of a folder have counted together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from ...outages import Outages
from ..families import Family
from .contents import HEAD, Used, contents, read_used
from .slots import SlotFile, check_locks, counts, slot_files
from .sums import Places, Rows, add_rows, by_name

_log = logging.getLogger("tokenpulse_mw.metrics")


class _Index(NamedTuple):
    """Where the rows of a file are. Rows do not move, so this is only ever added to."""

    stamp: bytes
    end: int
    places: dict[Family, Places]


class Workers:
    """Adds up the rows of all worker processes, the living and the dead.

    Counters and histograms count for ever, gauges while their worker lives. Any process may ask,
    and any number of them at the same time.

    Args:
        folder: That of all workers together.

    Raises:
        ValueError: Files cannot be locked here.
    """

    def __init__(self, folder: str | Path) -> None:
        check_locks()
        self._folder = Path(folder)
        self._known: dict[str, _Index] = {}  # replaced whole, so that threads may ask together
        self._outages = Outages(_log)

    def series(self) -> dict[str, tuple[Family, Rows]]:
        """Every family that a worker has counted in, by its name, with its rows.

        What cannot be read is left out and logged.
        """
        sums: dict[Family, Rows] = {}
        known: dict[str, _Index] = {}
        for file in self._files():
            name = file.path.name
            try:
                used = read_used(file.path)
            except FileNotFoundError:  # a gauge's, whose worker has just ended
                continue
            except OSError as error:
                self._failed(name, str(error))
                continue
            index = known[name] = self._index(file, used)
            doubles = memoryview(used.data).cast("d")
            for family, places in index.places.items():
                add_rows(family, sums.setdefault(family, {}), places, doubles)
            if used.damage is None and index.end == len(used.data):
                self._outages.recovered(name, "%s can be read again", file.path)
        self._known = known
        return by_name(sums)

    def _files(self) -> list[SlotFile]:
        """The files whose rows count, in an order that does not change."""
        try:
            files = [f for f in sorted(slot_files(self._folder)) if counts(self._folder, f)]
            self._outages.recovered("", "%s can be read again", self._folder)
            return files
        except OSError as error:
            self._failed("", str(error))
            return []

    def _index(self, file: SlotFile, used: Used) -> _Index:
        name = file.path.name
        known = self._known.get(name)
        if known is None or known.stamp != used.stamp or known.end > len(used.data):
            known = _Index(used.stamp, HEAD, {})
        if known.end == len(used.data) and used.damage is None:
            return known
        found, end, damage = contents(used, file.kind, known.end)
        if damage is not None:
            self._failed(name, damage)
        places = {family: list(rows) for family, rows in known.places.items()}
        for row in found:
            places.setdefault(row.family, []).append((row.labels, row.place))
        return _Index(used.stamp, end, places)

    def _failed(self, name: str, problem: str) -> None:
        self._outages.failed(
            name,
            "the metrics of some workers are missing, %s cannot be read: %s",
            self._folder / name,
            problem,
        )

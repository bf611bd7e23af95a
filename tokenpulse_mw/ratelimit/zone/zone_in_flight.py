"""Limiter of concurrent requests that the workers of one machine share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path

from ...validation import check_integer
from ..limiters import Decision, InFlight, slots_decision
from .connection import Connection, reset_in_children
from .file import HEADER_BYTES, Shape, ZoneFile
from .locks import MAX_SLOTS
from .table import WAYS, Address, Addresses, sets_for

_MAX_KEYS = 1_000_000
_ROW_BYTES = 4 * MAX_SLOTS
_EMPTY_ROW = bytes(_ROW_BYTES)


class ZoneInFlight(InFlight):
    """Limiter of the concurrent requests in all workers of one machine.

    Limiters with the same path share their slots. Their limit and `max_keys` must be equal. Keys
    are bytes, strings, integers, None, or tuples of these; the file has only their keyed hashes.

    Each worker has a count of its own for each key, which no longer counts when the worker has
    ended. A request locks the set of its key, as for `ZoneLimiter`; a release locks nothing. If
    the lock is not released in time, the limit is divided by the number of workers. If the file
    cannot be used, each process limits its own requests, and tries the file again every second.

    Args:
        limit: Slots per key.
        path: File of this limit, in a folder that only this user can write to. It is created if it
            is missing.
        max_keys: Keys with requests in progress that the file is made for. It takes 0.5 KiB for
            each.
        clock: Monotonic seconds.

    Attributes:
        path: Absolute path of the file.

    Raises:
        ValueError: An argument is malformed, the file is of another limit, or the system, the
            folder or the file system is not suitable.
    """

    storage_kind = "workers"

    def __init__(
        self,
        limit: int,
        *,
        path: str | Path,
        max_keys: int = 5000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(limit)
        self.max_keys = check_integer("max_keys", max_keys, maximum=_MAX_KEYS)
        if not callable(clock):
            raise ValueError(f"clock must be a function such as time.monotonic, got {clock!r}")
        self._clock = clock
        self._mutex = threading.Lock()
        self._connection: Connection[SlotTable] = Connection(
            path,
            Shape("in-flight", self.limit, 0, self.max_keys),
            SlotTable.size(self.max_keys),
            new_table=partial(SlotTable, max_keys=self.max_keys),
        )
        self.path = self.counters = self._connection.path
        reset_in_children(self)

    def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Take `cost` slots for `key` if they are free; call `release` afterwards.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        return self._run(key, cost, takes=True)

    def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Return what `hit` would decide, without taking slots.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        return self._run(key, cost, takes=False)

    def has_room(self, key: Hashable, cost: int) -> bool:
        """Return True if `hit` would take `cost` slots at this moment."""
        return self.peek(key, cost).allowed

    def release(self, key: Hashable, cost: int = 1) -> None:
        """Release `cost` slots of `key` that this process has taken.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        with self._mutex:
            super().release(key, cost)
            table = self._connection.table(self._clock())
            if table is not None:
                address = table.addresses.get(key) or table.addresses.add(key)
                table.lower(address, self._taken.get(key, 0))

    def clear(self) -> None:
        """Release the slots of this process."""
        with self._mutex:
            super().clear()
            table = self._connection.table(self._clock())
            if table is not None:
                table.clear()

    def _run(self, key: Hashable, cost: int, *, takes: bool) -> Decision:
        if type(cost) is not int or cost < 0:
            check_integer("cost", cost, minimum=0)
        with self._mutex:
            own = self._taken.get(key, 0)
            decision = self._decide(key, own, cost, takes=takes)
            if decision.allowed and takes and cost:
                self._taken[key] = own + cost
                return decision._replace(remaining=max(decision.remaining - cost, 0))
            return decision

    def _decide(self, key: Hashable, own: int, cost: int, *, takes: bool) -> Decision:
        table = self._connection.table(self._clock())
        if table is not None:
            try:
                address = table.addresses.get(key) or table.addresses.add(key)
                locks = table.file.locks
                if not locks.acquire(address.set, address.lock):
                    return self._share(table, table.find(address), own, cost, least=0)
                try:
                    place = table.find(address)
                    if place < 0 and takes and cost:
                        place = table.create(address)
                        if place < 0:  # all places are in use
                            return self._share(table, place, own, cost, least=1)
                    used = table.used(place, own, room=self.limit - cost)
                    decision = slots_decision(self.limit, used, cost)
                    if decision.allowed and takes and cost:
                        table.write(place, own + cost)
                    return decision
                finally:
                    locks.release(address.unlock)
            except OSError as error:
                self._connection.failed(error)
        return slots_decision(self.limit, own, cost)._replace(degraded=True)

    def _share(self, table: SlotTable, place: int, own: int, cost: int, *, least: int) -> Decision:
        """Decide as if each worker had taken as many slots that are not in the file."""
        written = table.own(place)
        used = table.used(place, written)
        share = max((self.limit - used) // table.file.locks.live_slots(), least)
        decision = slots_decision(self.limit, used, cost)
        if own - written + cost <= share or not decision.allowed:
            return decision
        return Decision(False, self.limit, 0, 0.0, 1.0, degraded=True)

    def reset_after_fork(self) -> None:
        """Open the file again in a forked child, which has no requests in progress."""
        self._mutex = threading.Lock()  # a thread of the parent may have held it
        self._connection.reset()
        self._taken.clear()


class SlotTable:
    """Table of the slots that the workers have taken for each key.

    A place is free if no worker has taken slots in it. Only a worker changes its counts, and those
    of a worker that has ended are removed with the lock of the set.

    Args:
        file: File of the table.
        max_keys: Number of keys that the table is made for.
    """

    def __init__(self, file: ZoneFile, max_keys: int) -> None:
        self.file = file
        self.addresses = Addresses(file, max_keys)
        self._places = WAYS * sets_for(max_keys)
        self._tags = file.words(HEADER_BYTES, self._places)
        self._counts_start = HEADER_BYTES + 8 * self._places
        self._counts = file.counts(self._counts_start, self._places * MAX_SLOTS)
        self.clear()  # the counts of the previous worker in this slot

    @staticmethod
    def size(max_keys: int) -> int:
        """Return the size of the file."""
        return HEADER_BYTES + WAYS * sets_for(max_keys) * (8 + _ROW_BYTES)

    def find(self, address: Address) -> int:
        """Return the place of a key, or -1."""
        first = address.set * WAYS
        tags = self._tags[first : first + WAYS].tolist()
        return first + tags.index(address.tag) if address.tag in tags else -1

    def create(self, address: Address) -> int:
        """Return a new place for a key, or -1 if its set is full."""
        first = address.set * WAYS
        for place in range(first, first + WAYS):
            if self._is_free(place):
                self._tags[place] = address.tag
                return place
        return -1

    def own(self, place: int) -> int:
        """Return the slots of this worker in a place."""
        return 0 if place < 0 else self._counts[place * MAX_SLOTS + self.file.locks.slot]

    def used(self, place: int, own: int, *, room: int | None = None) -> int:
        """Return the slots that all workers have taken.

        Args:
            place: Place of the key, or -1.
            own: Slots of this worker.
            room: If more are used, those of workers that have ended are removed.
        """
        if place < 0:
            return own
        used = own + sum(self._row(place)) - self.own(place)
        if room is not None and used > room:
            self._remove_ended(place)
            used = own + sum(self._row(place)) - self.own(place)
        return used

    def write(self, place: int, own: int) -> None:
        """Set the slots of this worker in a place."""
        self._counts[place * MAX_SLOTS + self.file.locks.slot] = own

    def lower(self, address: Address, own: int) -> None:
        """Reduce the slots of this worker, which needs no lock: its place is not free."""
        place = self.find(address)
        if self.own(place) > own:
            self.write(place, own)

    def clear(self) -> None:
        """Remove the slots of this worker."""
        column = self._counts[self.file.locks.slot :: MAX_SLOTS]
        column[:] = memoryview(bytes(4 * self._places)).cast("I")

    def _row(self, place: int) -> list[int]:
        return self._counts[place * MAX_SLOTS : (place + 1) * MAX_SLOTS].tolist()

    def _is_free(self, place: int) -> bool:
        start = self._counts_start + place * _ROW_BYTES
        if self.file.memory[start : start + _ROW_BYTES] == _EMPTY_ROW:
            return True
        self._remove_ended(place)
        return not any(self._row(place))

    def _remove_ended(self, place: int) -> None:
        """Remove the slots of workers that have ended."""
        for slot, count in enumerate(self._row(place)):
            if count and not self.file.locks.is_live(slot):
                self._counts[place * MAX_SLOTS + slot] = 0

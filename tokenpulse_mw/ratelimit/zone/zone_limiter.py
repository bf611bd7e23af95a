"""Rate limiter that the workers of one machine share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ...validation import check_choice, check_integer
from ..limiters import Decision, Limiter, SavedWindow, check_amount
from .connection import Connection, reset_in_children
from .debts import Debt, Debts
from .file import Shape
from .locks import PAUSE
from .table import Address, WindowTable

_STRATEGIES = ("fixed-window", "gcra")


def zone_shape(limiter: Limiter, strategy: str) -> Shape:
    """Return the shape of the file of a limiter with the same arguments."""
    if limiter.period is not None:
        calendar = f"{limiter.period} {limiter.timezone}".encode()
        strategy = f"calendar-{blake2b(calendar, digest_size=3).hexdigest()}"
    return Shape(strategy, limiter.limit, limiter.window, limiter.max_keys)


class ZoneLimiter(Limiter):
    """Rate limiter of the workers of one machine, which count in a file that all of them map.

    Limiters with the same path share their counters. Their limit, strategy and `max_keys` must be
    equal. Keys are bytes, strings, integers, None, or tuples of these; the file has only their
    keyed hashes. Threads may share a limiter.

    A hit locks the set of its key in the file. The kernel releases the lock of a killed worker. If
    a lock is not released within 5 ms, as by a stopped worker, the limiter decides without it, and
    does not wait for this set during the next 100 ms. It then allows a request only if the limit
    would hold if each worker had allowed as much, and adds it to the file later.

    If the file cannot be used, such as after it was deleted or truncated, each process limits by a
    table of its own, and tries the file again every second.

    Args:
        limit: A rate such as "100/minute", "20 USD/day" or "1000/calendar day".
        path: File of this limit, in a folder that only this user can write to. The best place is a
            tmpfs, such as "/run/gateway/limit". It is created if it is missing.
        max_keys: Number of keys that the file is made for. It takes 1.1 KiB for each.
        strategy: "fixed-window" or "gcra" (token bucket).
        clock: Monotonic seconds, equal in all workers; not used for calendar windows.
        timezone: Time zone of calendar windows; UTC when None.
        wall_clock: Seconds since the epoch, for calendar windows.

    Attributes:
        path: Absolute path of the file.
        evictions: Keys that this process evicted from full sets before they expired.

    Raises:
        ValueError: An argument is malformed, the file is of another limit, or the system, the
            folder or the file system is not suitable.
    """

    storage_kind = "workers"

    def __init__(
        self,
        limit: str,
        *,
        path: str | Path,
        max_keys: int = 5000,
        strategy: str = "fixed-window",
        clock: Callable[[], float] = time.monotonic,
        timezone: str | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        check_choice("strategy", strategy, _STRATEGIES)
        super().__init__(
            limit,
            max_keys=max_keys,
            strategy=strategy,
            clock=clock,
            timezone=timezone,
            wall_clock=wall_clock,
        )
        self._fixed_window = "in a file"
        self._mutex = threading.Lock()
        self._debts = Debts()
        self._connection: Connection[WindowTable] = Connection(
            path,
            zone_shape(self, strategy),
            WindowTable.size(self.max_keys),
            new_table=partial(WindowTable, max_keys=self.max_keys, strategy=self._strategy),
        )
        self._table = self._connection.opened
        self.path = self.counters = self._connection.path
        reset_in_children(self)

    def set_limit(self, limit: str, *, seconds: float | None = None) -> None:
        """Change the limit of this process, as `Limiter.set_limit` does, and keep the file.

        Raises:
            ValueError: `limit` is not a rate with the same currency and window.
        """
        with self._mutex:
            super().set_limit(limit, seconds=seconds)

    def dump(self, *, max_keys: int = 10_000) -> list[SavedWindow]:  # noqa: ARG002
        """Return nothing, because the file outlives the process."""
        return []

    def __len__(self) -> int:
        """Return the number of keys whose window has not ended, of all workers."""
        with self._mutex:
            table = self._current()
            return super().__len__() if table is None else table.count(self.clock())

    def sample(self, most: int) -> list[Hashable]:
        """Return at most `most` keys that this process has used; some may have expired."""
        with self._mutex:
            table = self._current()
            return super().sample(most) if table is None else table.addresses.sample(most)

    def __iter__(self) -> Iterator[Hashable]:
        """Return an iterator over the keys that this process has used last; some have expired."""
        with self._mutex:
            table = self._current()
            return super().__iter__() if table is None else iter(table.addresses.keys())

    def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count a request of `cost` for `key` if it is within the limit.

        A rejected request is not counted.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        if type(cost) is not int or cost < 0:
            check_integer("cost", cost, minimum=0)
        decision: Decision = self._run(key, self._hit, self._hit_unlocked, super().hit, cost)
        return decision

    def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Return what `hit` would decide, without counting.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        if type(cost) is not int or cost < 0:
            check_integer("cost", cost, minimum=0)
        decision: Decision = self._run(key, self._peek, self._peek_unlocked, super().peek, cost)
        return decision

    def has_room(self, key: Hashable, cost: int) -> bool:
        """Return True if `hit` would allow a valid `cost` at this moment."""
        return self.peek(key, cost).allowed

    def charge(self, key: Hashable, amount: int, *, since: float | None = None) -> None:
        """Correct the cost of a hit, regardless of the limit, as `Limiter.charge` does.

        Raises:
            ValueError: `amount` is not an integer, or `key` cannot be shared.
        """
        amount = check_amount(amount)
        since = self.clock() if since is None else since
        self._run(key, self._charge, self._owe_charge, self._charge_locally, amount, since)

    def adopt(self, key: Hashable, decision: Decision) -> None:
        """Count at least the usage in a decision that another limiter made just now.

        If the set of the key is locked for too long, nothing is counted.

        Args:
            key: Key of the decision.
            decision: Decision of a limiter with the same limit and strategy.

        Raises:
            ValueError: `key` cannot be shared.
        """
        self._run(key, self._adopt, lambda *_: None, super().adopt, decision)

    def reset(self, key: Hashable) -> None:
        """Remove the usage of `key` in all workers.

        This may also reduce the usage of evicted keys that share a cell with `key`.

        Raises:
            ValueError: `key` cannot be shared.
        """
        # A lock that is not released must not prevent it: each write leaves the set valid.
        self._run(key, self._reset, self._reset, super().reset)

    def clear(self) -> None:
        """Remove the usage of all keys in all workers, as in a new file."""
        with self._mutex:
            super().clear()
            self._debts = Debts()
            table = self._current()
            if table is not None:
                table.clear()

    def _run(
        self,
        key: Hashable,
        locked: Callable[..., Any],
        unlocked: Callable[..., Any],
        local: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """Return the result of an operation on the file, or on the table of this process.

        Args:
            key: Key of the operation.
            locked: Called if the set of the key is locked, with table, address and time.
            unlocked: Called in the same way if the set cannot be locked in time.
            local: Called with the key if the file cannot be used.
            arguments: Further arguments of each.
        """
        with self._mutex:
            table = self._current()
            if table is not None:
                try:
                    address = table.addresses.get(key) or table.addresses.add(key)
                    locks = table.file.locks
                    if not locks.acquire(address.set, address.lock):
                        return unlocked(table, address, self.clock(), *arguments)
                    try:
                        now = self.clock()  # after the wait
                        if self._debts.count:
                            self._pay(table, address.set, now)
                        return locked(table, address, now, *arguments)
                    finally:
                        locks.release(address.unlock)
                except OSError as error:
                    self._connection.failed(error)
                    self._current()
            result = local(key, *arguments)
            return result._replace(degraded=True) if isinstance(result, Decision) else result

    def _hit(self, table: WindowTable, address: Address, now: float, cost: int) -> Decision:
        place, state = self._place(table, address, now)
        decision = self._consume(state, now, cost)
        if decision.allowed and cost:
            table.write(place, state)
        return decision

    def _hit_unlocked(
        self, table: WindowTable, address: Address, now: float, cost: int
    ) -> Decision:
        """Decide as if each worker had allowed and owed as much as this one."""
        strategy, state = self._strategy, self._read(table, address, now)
        debt = self._debts.amount(address, now)
        workers = table.file.locks.live_slots()
        fits = strategy.check(state, now, workers * (max(debt, 0) + cost)).allowed
        strategy.charge(state, now, debt, now)
        decision = strategy.consume(state, now, cost)
        if not decision.allowed or not cost:
            return decision
        if not fits or not self._debts.add(address, Debt(cost, now, state.ends), now):
            return Decision(False, self.limit, 0, decision.reset_after, PAUSE, degraded=True)
        return decision

    def _peek(self, table: WindowTable, address: Address, now: float, cost: int) -> Decision:
        return self._strategy.check(self._read(table, address, now), now, cost)

    def _peek_unlocked(
        self, table: WindowTable, address: Address, now: float, cost: int
    ) -> Decision:
        state = self._read(table, address, now)
        self._strategy.charge(state, now, self._debts.amount(address, now), now)
        return self._strategy.check(state, now, cost)

    def _charge(
        self, table: WindowTable, address: Address, now: float, amount: int, since: float
    ) -> None:
        place, state = table.find(address, now)
        if state is None:
            if amount <= 0:  # expired, or in the cells, which support no refunds
                return
            place, state = self._place(table, address, now)
        self._strategy.charge(state, now, amount, since)
        table.write(place, state)

    def _owe_charge(
        self, table: WindowTable, address: Address, now: float, amount: int, since: float
    ) -> None:
        """Owe a charge; it is lost if too many are owed."""
        state = self._read(table, address, now)
        self._strategy.charge(state, now, max(amount, 0), now)
        self._debts.add(address, Debt(amount, since, state.ends), now)

    def _charge_locally(self, key: Hashable, amount: int, since: float) -> None:
        super().charge(key, amount, since=since)

    def _adopt(self, table: WindowTable, address: Address, now: float, decision: Decision) -> None:
        place, state = self._place(table, address, now)
        self._strategy.adopt(state, now, decision)
        table.write(place, state)

    def _reset(self, table: WindowTable, address: Address, now: float) -> None:
        self._debts.pop(address.set)
        table.remove(address, now)

    def _place(self, table: WindowTable, address: Address, now: float) -> tuple[int, Any]:
        """Return the place and the state of a key, which is created if it does not exist."""
        place, state = table.find(address, now)
        if state is None:
            state = table.load(address, now) or self._strategy.new_state(now)
            place, evicts = table.create(address, place, state, now)
            self.evictions += evicts
        return place, state

    def _read(self, table: WindowTable, address: Address, now: float) -> Any:
        """Return the state of a key, without creating it."""
        _, state = table.find(address, now)
        return state or table.load(address, now) or self._strategy.new_state(now)

    def _pay(self, table: WindowTable, number: int, now: float) -> None:
        """Write the debts of a locked set to the file."""
        for address, debt in self._debts.pop(number).items():
            if debt.ends > now:
                self._charge(table, address, now, debt.amount, debt.since)

    def _current(self) -> WindowTable | None:
        """Return the table in the file, or None; hits before a change are not refunded."""
        table = self._connection.table(self.clock())
        if table is not self._table:
            self._table = table
            self._states.clear()
            self._sketch = None
            self._debts = Debts()
            self.clears += 1
        return table

    def reset_after_fork(self) -> None:
        """Open the file again in a forked child, where threads of the parent do not exist."""
        self._mutex = threading.Lock()
        self._connection.reset()

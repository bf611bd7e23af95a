"""Windows of limits, which the alert store keeps over a restart."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import anyio

from ..alerts import AlertStore
from ..alerts.store import LimitWindow
from ..lifespan import background_tasks
from ..ratelimit import Limiter, Policy, SavedWindow
from .limits import is_local

logger = logging.getLogger("tokenpulse_mw")

_INTERVAL = 30.0  # seconds
_TIMEOUT = 10.0  # seconds that a store may delay the start and the end
_MAX_KEYS = 10_000  # of a policy
_MAX_KEY_BYTES = 1024
_MAX_USED = 2**63 - 1


class SavedLimits:
    """Windows of at least an hour, saved for limits that count in this process alone.

    Each process saves what it has counted, under a name that it has until it ends. A new process
    begins with the most that any process has counted for a key, and replaces their windows when it
    saves for the first time. So a request never counts twice, and workers that count alone count
    alone after a restart too.

    A process that is killed loses what it has counted since it saved last.

    Args:
        store: The alert store.
        policies: Limits; more may be appended later.
        interval: Seconds between two saves.
    """

    def __init__(
        self, store: AlertStore, policies: Sequence[Policy], *, interval: float = _INTERVAL
    ) -> None:
        self._store = store
        self._policies = policies
        self._interval = interval
        self._is_failing = False
        self._begin()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Restore the windows, and save them every `interval` seconds and at the end."""
        self._begin()
        with anyio.move_on_after(_TIMEOUT):  # what is missing then is restored by the first save
            await self.save()
        try:
            async with background_tasks(self._run):
                yield
        finally:
            with anyio.move_on_after(_TIMEOUT, shield=True):
                self._last.clear()  # another process may have replaced them
                await self.save()

    async def save(self) -> None:
        """Save the windows that have changed; failures are logged.

        Those of a limit that has not been saved are restored first.
        """
        for policy, limiter in self._saved():
            await self._attempt(policy, self._save(policy, limiter))

    def _begin(self) -> None:
        """Take a new name, since the windows that were saved under the last one are complete."""
        self._process = uuid4().hex
        self._replaces: dict[str, tuple[str, ...]] = {}  # by the names of restored limits
        self._last: dict[str, list[tuple[bytes, int, int]]] = {}

    async def _run(self) -> None:
        while True:
            await anyio.sleep(self._interval)
            await self.save()

    def _saved(self) -> Iterator[tuple[Policy, Limiter]]:
        for policy in list(self._policies):
            if isinstance(policy.limiter, Limiter) and is_local(policy):
                yield policy, policy.limiter

    async def _restore(self, policy: Policy, limiter: Limiter) -> None:
        name = _name(policy)
        windows, processes = await self._store.load_windows(name)
        self._replaces[name] = processes  # even if a row is malformed: usage is added only once
        malformed: ValueError | None = None
        for window in sorted(windows, key=lambda window: window.ends):
            try:
                limiter.restore([SavedWindow(*window)])
            except ValueError as error:  # the other keys keep their usage
                malformed = error
        if malformed is not None:
            raise malformed
        if windows:
            logger.info("limit restored: policy=%s keys=%d", policy.name, len(windows))

    async def _save(self, policy: Policy, limiter: Limiter) -> None:
        name = _name(policy)
        if name not in self._replaces:  # the limit is new, or the store failed at the start
            await self._restore(policy, limiter)
        windows = [
            LimitWindow(key, min(used, _MAX_USED), ends)
            for key, used, ends in limiter.dump(max_keys=_MAX_KEYS)
            if len(key) <= _MAX_KEY_BYTES
        ]
        usage = [(window.key, window.used, round(window.ends)) for window in windows]
        if usage != self._last.get(name) or self._replaces[name]:
            replaces = self._replaces[name]
            await self._store.save_windows(name, self._process, windows, replaces=replaces)
            self._replaces[name], self._last[name] = (), usage

    async def _attempt(self, policy: Policy, work: Awaitable[None]) -> None:
        """Await `work`; log its failure, but not each time while the store fails."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - limits count without a store too
            if not self._is_failing:
                logger.error(
                    "alert store failed, limits not saved (logged once until it works): "
                    "policy=%s error=%s",
                    policy.name,
                    error,
                )
            self._is_failing = True
        else:
            self._is_failing = False


def _name(policy: Policy) -> str:
    """Return the name of the counts of a policy: usage in another unit is not restored."""
    limiter = policy.limiter
    return " ".join((policy.name, policy.unit, getattr(limiter, "period", None) or "window"))

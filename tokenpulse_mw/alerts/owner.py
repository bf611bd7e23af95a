"""Whose a store is: two engines on one end each other's alerts, and nobody would know why."""

from __future__ import annotations

import logging
import os
import socket
from functools import cached_property
from uuid import uuid4

from .store.protocol import AlertStore

logger = logging.getLogger("tokenpulse_mw.alerts")


class Owner:
    """An engine, as it is known to its store; says once that another one writes to it too.

    Whoever has written before our first round may be gone, as after a restart; whoever does so
    between two of ours is not.

    Args:
        store: The engine's.
    """

    def __init__(self, store: AlertStore) -> None:
        self._store = store
        self._has_kept = self._has_told = False

    @cached_property
    def name(self) -> str:
        """Its own; made when it is needed, as processes that are forked have one each."""
        return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"

    def kept(self, engine: str, before: str | None) -> None:
        """The store has kept changes of `engine`, empty where no round, after one of `before`."""
        if not engine:
            return
        other = isinstance(before, str) and before != engine
        if other and self._has_kept and not self._has_told:
            self._has_told = True
            logger.error(
                "another engine, %s, writes to %r as well, so each ends the other's alerts: give "
                "each engine a store of its own",
                before,
                self._store,
            )
        self._has_kept = True

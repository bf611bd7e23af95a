"""Calls of a store that has little time for each, on a machine that may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from tokenpulse_mw.alerts.store import StoreError

from ...support.waiting import PATIENCE

_Answer = TypeVar("_Answer")


async def patiently(call: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """What `call` gives in the end, however often it takes longer than it may before."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(StoreError):
                return await call()

"""Retries of a store with a short timeout on a slow machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from tokenpulse_mw.alerts.store import StoreError

from ...support.waiting import PATIENCE

_Result = TypeVar("_Result")


async def retry(call: Callable[[], Awaitable[_Result]]) -> _Result:
    """Return the result of `call`, repeated while it raises StoreError."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(StoreError):
                return await call()

"""Application that drains on SIGTERM, for real servers.

Its stream ends when the file named by `DRAINING_FINISH` exists.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tokenpulse_mw.health import HealthRouter, drain_on_sigterm

health = HealthRouter()
finish = Path(os.environ.get("DRAINING_FINISH", os.devnull))
delay = float(os.environ.get("DRAINING_DELAY", "0"))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Run health and drain, as TokenPulse does."""
    async with health.running(), drain_on_sigterm(health, delay=delay):
        yield


async def stream(request: Request) -> StreamingResponse:
    """Stream a response that begins at once and ends when the file exists."""

    def chunks() -> Iterator[bytes]:
        yield b"begin "
        while not finish.exists():
            time.sleep(0.01)
        yield b"end"

    return StreamingResponse(chunks())


app = Starlette(routes=[Route("/stream", stream), *health.routes], lifespan=lifespan)

"""A gateway that drains on SIGTERM, to be served by a real server.

Its stream says that it has begun, and goes on until the file that `DRAINING_FINISH` names is there.
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
    """As the stack does it."""
    async with health.running(), drain_on_sigterm(health, delay=delay):
        yield


async def stream(request: Request) -> StreamingResponse:
    """Begins, and ends when it is told."""

    def pieces() -> Iterator[bytes]:
        yield b"begin "
        while not finish.exists():
            time.sleep(0.01)
        yield b"end"

    return StreamingResponse(pieces())


app = Starlette(routes=[Route("/stream", stream), *health.routes], lifespan=lifespan)

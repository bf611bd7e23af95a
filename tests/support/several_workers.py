"""Gateway with the settings of the environment, to be run in several workers."""

from __future__ import annotations

import os
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tokenpulse_mw import TokenPulse, drop_exchange

BUSY_SECONDS = 0.05


async def chat(request: Request) -> PlainTextResponse:
    """Return the process id of this worker."""
    return PlainTextResponse(str(os.getpid()))


async def busy(request: Request) -> PlainTextResponse:
    """Return the process id after some time in which this worker accepts no other connection."""
    drop_exchange(request.scope)
    time.sleep(BUSY_SECONDS)  # noqa: ASYNC251
    return PlainTextResponse(str(os.getpid()))


app = Starlette(routes=[Route("/chat", chat), Route("/busy", busy)])
TokenPulse(exempt=["/busy"]).install(app)

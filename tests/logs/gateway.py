"""Gateway for real servers that logs JSON to standard error."""

from __future__ import annotations

import logging
import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tokenpulse_mw import ExchangeMiddleware, configure_logging
from tokenpulse_mw.logs import AccessLog, RequestIdMiddleware

configure_logging(
    "INFO", "json", capture=["uvicorn", "hypercorn.error", "_granian", "granian.access"]
)


async def whole(request: Request) -> Response:
    """Log a line and respond."""
    logging.getLogger("Gateway").info("handled")
    return PlainTextResponse("done")


async def stream(request: Request) -> Response:
    """Stream a response of two chunks."""
    return StreamingResponse(iter(["a", "b"]))


async def pid(request: Request) -> Response:
    """Respond with the id of the process."""
    return PlainTextResponse(str(os.getpid()))


async def failing(request: Request) -> Response:
    """Raise an error."""
    raise RuntimeError("no upstream")


VIEWS = (whole, stream, pid, failing)
app = RequestIdMiddleware(
    ExchangeMiddleware(
        Starlette(routes=[Route(f"/{view.__name__}", view) for view in VIEWS]),
        observers=[AccessLog()],
    )
)

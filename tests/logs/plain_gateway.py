"""Gateway for real servers that configures no logging; `POST /trouble` starts or ends an alert."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tokenpulse_mw import AlertEngine, Settings, TokenPulse
from tokenpulse_mw.alerts import Finding, Subject, Thresholds, Traffic

troubles: list[str] = []


def trouble(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """Find the trouble while there is one."""
    for key in troubles:
        subject = Subject("key", key)
        yield Finding(type="trouble", subject=subject, severity="warning", title="T", message="M")


async def toggle(request: Request) -> PlainTextResponse:
    """Start the trouble, or end it."""
    troubles[:] = [] if troubles else ["k1"]
    return PlainTextResponse("done")


async def version(request: Request) -> PlainTextResponse:
    """Respond."""
    return PlainTextResponse("1")


app = Starlette(routes=[Route("/trouble", toggle, methods=["POST"]), Route("/stream", version)])
TokenPulse(
    settings=Settings(limit=None, access_log=True, drain_delay=0.1),
    engine=AlertEngine([trouble], interval=0.1),
).install(app)

"""ASGI middleware that passes every exchange to an alert engine."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..exchange import ExchangeMiddleware
from .engine import AlertEngine


class AlertMiddleware(ExchangeMiddleware):
    """An `ExchangeMiddleware` whose observer is an alert engine.

    The engine evaluates only while it runs: enter it in the application's lifespan.

    Args:
        engine: Observes the exchanges.
        websocket_usage: Read token usage from the messages of models over WebSockets.

    Raises:
        ValueError: `engine` is not an `AlertEngine`.
    """

    def __init__(self, app: ASGIApp, *, engine: AlertEngine, websocket_usage: bool = False) -> None:
        if not isinstance(engine, AlertEngine):
            raise ValueError(
                "engine must be an AlertEngine, as in add_middleware(AlertMiddleware, "
                f"engine=AlertEngine()), got {engine!r}"
            )
        super().__init__(
            app,
            observers=[engine],
            websocket_usage=websocket_usage,
            in_progress=engine.in_progress,
            quotas=engine.upstream,
        )

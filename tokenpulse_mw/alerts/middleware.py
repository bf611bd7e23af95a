"""The middleware that lets an alert engine watch every request."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..exchange import ExchangeMiddleware
from .engine import AlertEngine


class AlertMiddleware(ExchangeMiddleware):
    """An `ExchangeMiddleware` whose observer is an alert engine.

    The engine evaluates only while it runs: enter it in the application's lifespan.

    Args:
        engine: Watches the traffic.

    Raises:
        ValueError: `engine` is none.
    """

    def __init__(self, app: ASGIApp, *, engine: AlertEngine) -> None:
        if not isinstance(engine, AlertEngine):
            raise ValueError(
                "engine must be an AlertEngine, as in add_middleware(AlertMiddleware, "
                f"engine=AlertEngine()), got {engine!r}"
            )
        super().__init__(app, observers=[engine.observe])

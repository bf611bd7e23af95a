"""Middleware that counts every request."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..exchange import (
    ExchangeMiddleware,
    ProviderResolver,
    Providers,
    RequestsInProgress,
    UpstreamQuotas,
)
from .gauges import ExchangeGauges
from .http import HttpMetrics


class MetricsMiddleware(ExchangeMiddleware):
    """`ExchangeMiddleware` with an `HttpMetrics` as its observer.

    Args:
        metrics: Metrics to fill; those of prometheus_client's default registry if None.
        provider: `Providers`, or a function of the scope that returns a provider name or None.
        request_model: Read the model in the body of a POST request, for responses that name none.
        websocket_usage: Read token usage from the messages of models over WebSockets.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: HttpMetrics | None = None,
        provider: Providers | ProviderResolver | None = None,
        request_model: bool = False,
        websocket_usage: bool = False,
    ) -> None:
        self.metrics = HttpMetrics() if metrics is None else metrics
        in_progress, quotas = RequestsInProgress(), UpstreamQuotas()
        super().__init__(
            app,
            observers=[self.metrics],
            provider=provider,
            request_model=request_model,
            websocket_usage=websocket_usage,
            in_progress=in_progress,
            quotas=quotas,
        )
        self._gauges = ExchangeGauges(in_progress, quotas)
        self._gauges.show_in(self.metrics)

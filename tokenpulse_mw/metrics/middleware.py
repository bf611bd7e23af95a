"""The middleware that counts every request."""

from __future__ import annotations

from starlette.types import ASGIApp

from ..exchange import ExchangeMiddleware, ProviderResolver, Providers
from .http import HttpMetrics


class MetricsMiddleware(ExchangeMiddleware):
    """An `ExchangeMiddleware` whose observer is an `HttpMetrics`.

    Args:
        metrics: What to fill; the families on prometheus_client's default registry when None.
        provider: `Providers`, or a callable of the scope that gives a provider's name or None.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: HttpMetrics | None = None,
        provider: Providers | ProviderResolver | None = None,
    ) -> None:
        self.metrics = HttpMetrics() if metrics is None else metrics
        super().__init__(app, observers=[self.metrics], provider=provider)

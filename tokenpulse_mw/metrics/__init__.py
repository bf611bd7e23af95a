"""Prometheus metrics of HTTP requests and language model usage."""

from .gauges import ExchangeGauges
from .http import HttpMetrics
from .middleware import MetricsMiddleware
from .routes import metrics_routes

__all__ = ["ExchangeGauges", "HttpMetrics", "MetricsMiddleware", "metrics_routes"]

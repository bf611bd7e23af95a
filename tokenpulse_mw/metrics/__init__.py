"""Prometheus metrics of every exchange, on plain rows."""

from .http import HttpMetrics
from .middleware import MetricsMiddleware
from .routes import metrics_routes

__all__ = ["HttpMetrics", "MetricsMiddleware", "metrics_routes"]

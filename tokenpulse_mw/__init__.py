"""ASGI middleware for LLM gateways: rate limits, metrics, token metering, health, alerts."""

from importlib.metadata import version

from .alerts import AlertEngine, AlertEvent, AlertMiddleware, Finding, LogSink, Subject, Thresholds
from .config import Settings
from .exchange import Exchange, ExchangeMiddleware, Providers, annotate
from .health import HealthRouter
from .logs import configure_logging
from .metrics import HttpMetrics, MetricsMiddleware, metrics_routes
from .ratelimit import Decision, Limiter, RateLimitMiddleware, client_address, header
from .stack import TokenPulse
from .usage import TokenUsage

__version__ = version("tokenpulse-mw")

__all__ = [
    "AlertEngine",
    "AlertEvent",
    "AlertMiddleware",
    "Decision",
    "Exchange",
    "ExchangeMiddleware",
    "Finding",
    "HealthRouter",
    "HttpMetrics",
    "Limiter",
    "LogSink",
    "MetricsMiddleware",
    "Providers",
    "RateLimitMiddleware",
    "Settings",
    "Subject",
    "Thresholds",
    "TokenPulse",
    "TokenUsage",
    "annotate",
    "client_address",
    "configure_logging",
    "header",
    "metrics_routes",
]

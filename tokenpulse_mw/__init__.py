"""ASGI middleware for LLM gateways: rate limits, metrics, token metering, health, alerts."""

from .alerts import (
    AlertEngine,
    AlertEvent,
    AlertMiddleware,
    Finding,
    LogSink,
    Subject,
    Thresholds,
    alert_routes,
)
from .config import Settings
from .exchange import Exchange, ExchangeMiddleware, Observer, Providers, annotate, drop_exchange
from .health import Check, CheckResult, EventLoopLag, HealthRouter, ProviderHealth, drain_on_sigterm
from .logs import (
    AccessLog,
    RequestIdMiddleware,
    configure_logging,
    current_request_id,
    settings_routes,
)
from .metrics import HttpMetrics, MetricsMiddleware, metrics_routes
from .ratelimit import (
    Decision,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    SharedLimiter,
    anthropic_error,
    keys,
    openai_error,
    problem_details,
    requests_to,
    too_many_requests,
)
from .secret import Secret
from .stack import TokenPulse
from .usage import TokenUsage
from .web.auth import bearer

__version__ = "0.1.0"

__all__ = [
    "AccessLog",
    "AlertEngine",
    "AlertEvent",
    "AlertMiddleware",
    "Check",
    "CheckResult",
    "Decision",
    "EventLoopLag",
    "Exchange",
    "ExchangeMiddleware",
    "Finding",
    "HealthRouter",
    "HttpMetrics",
    "InFlight",
    "Limiter",
    "LogSink",
    "MetricsMiddleware",
    "Observer",
    "Policy",
    "ProviderHealth",
    "Providers",
    "RateLimitMiddleware",
    "RequestIdMiddleware",
    "Secret",
    "Settings",
    "SharedLimiter",
    "Subject",
    "Thresholds",
    "TokenPulse",
    "TokenUsage",
    "alert_routes",
    "annotate",
    "anthropic_error",
    "bearer",
    "configure_logging",
    "current_request_id",
    "drain_on_sigterm",
    "drop_exchange",
    "keys",
    "metrics_routes",
    "openai_error",
    "problem_details",
    "requests_to",
    "settings_routes",
    "too_many_requests",
]

"""ASGI middleware for LLM gateways: rate limits, metrics, token metering, health, alerts."""

from importlib import import_module

__version__ = "0.1.0"

# Each name is imported when it is first used: importing all takes ten times as long as the command
# `tokenpulse-mw check`, which container runtimes run every few seconds. Types are in __init__.pyi.
_NAMES = {
    "alerts": [
        "AlertEngine",
        "AlertEvent",
        "AlertMiddleware",
        "Finding",
        "Fleet",
        "LogSink",
        "Subject",
        "Thresholds",
    ],
    "alerts.admin": ["alert_routes", "tenant_usage_routes", "usage_routes"],
    "config": ["Settings"],
    "exchange": [
        "Exchange",
        "ExchangeMiddleware",
        "Models",
        "Observer",
        "Providers",
        "annotate",
        "drop_exchange",
    ],
    "health": [
        "Check",
        "CheckResult",
        "EventLoopLag",
        "HealthRouter",
        "ProviderHealth",
        "drain_on_sigterm",
    ],
    "logs": [
        "AccessLog",
        "RequestIdMiddleware",
        "configure_logging",
        "current_request_id",
        "settings_routes",
    ],
    "metrics": ["HttpMetrics", "MetricsMiddleware", "metrics_routes"],
    "ratelimit": [
        "Decision",
        "InFlight",
        "Limiter",
        "PlanLimiter",
        "Policy",
        "RateLimitMiddleware",
        "RateLimited",
        "RouteLimit",
        "anthropic_error",
        "keys",
        "openai_error",
        "problem_details",
        "requests_to",
        "reserve_from_request",
        "tokens_from_request",
        "too_many_requests",
    ],
    "ratelimit.shared": ["SharedInFlight", "SharedLimiter"],
    "ratelimit.zone": ["ZoneInFlight", "ZoneLimiter"],
    "secret": ["Secret"],
    "stack": ["TokenPulse"],
    "usage": ["Cost", "Prices", "Rates", "TokenUsage"],
    "web.auth": ["Person", "bearer"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    """Import a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    """Return the names of the module, including those that are not imported yet."""
    return sorted({*globals(), *__all__})

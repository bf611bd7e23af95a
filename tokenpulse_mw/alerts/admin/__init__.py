"""Admin API of the alert engine: alerts, silences, thresholds and usage over HTTP."""

from .routes import alert_routes
from .usage import tenant_usage_routes, usage_routes

__all__ = ["alert_routes", "tenant_usage_routes", "usage_routes"]

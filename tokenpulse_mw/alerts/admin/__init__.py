"""Admin API of the alert engine: reads and changes alerts, silences and thresholds over HTTP."""

from .routes import alert_routes

__all__ = ["alert_routes"]

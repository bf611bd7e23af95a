"""The admin API: what people on call read of alerts, and change while the gateway runs."""

from .routes import alert_routes

__all__ = ["alert_routes"]

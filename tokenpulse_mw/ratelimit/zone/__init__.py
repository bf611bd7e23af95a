"""Limiters of the workers of one machine, which count in files that all of them map."""

from .zone_in_flight import ZoneInFlight
from .zone_limiter import ZoneLimiter

__all__ = ["ZoneInFlight", "ZoneLimiter"]

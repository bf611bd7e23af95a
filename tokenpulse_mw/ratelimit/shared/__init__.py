"""Limiters of several processes, which count in a shared storage."""

from .shared_in_flight import SharedInFlight
from .shared_limiter import SharedLimiter

__all__ = ["SharedInFlight", "SharedLimiter"]

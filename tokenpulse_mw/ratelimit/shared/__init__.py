"""Limiters of several processes, which count in a shared storage."""

from .shared_in_flight import SharedInFlight
from .shared_limiter import SharedHit, SharedLimiter, hit_together

__all__ = ["SharedHit", "SharedInFlight", "SharedLimiter", "hit_together"]

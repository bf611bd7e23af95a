"""The same for several processes, which count together in a storage."""

from .shared_limiter import SharedLimiter

__all__ = ["SharedLimiter"]

"""Limiter of several processes, which count in a shared storage."""

from .shared_limiter import SharedLimiter

__all__ = ["SharedLimiter"]

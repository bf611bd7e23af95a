"""Who may ask how often: client keys, a bounded table of windows, and the middleware."""

from .decision import Decision
from .keys import KeyFunction, client_address, header
from .limiter import Limiter
from .middleware import RateLimitMiddleware, too_many_requests

__all__ = [
    "Decision",
    "KeyFunction",
    "Limiter",
    "RateLimitMiddleware",
    "client_address",
    "header",
    "too_many_requests",
]

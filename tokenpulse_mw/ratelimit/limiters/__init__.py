"""Limiters of this process, independent of HTTP."""

from .decision import EPSILON, Decision
from .in_flight import InFlight
from .limiter import Limiter
from .rate import check_amount, parse_rate

__all__ = [
    "EPSILON",
    "Decision",
    "InFlight",
    "Limiter",
    "check_amount",
    "parse_rate",
]

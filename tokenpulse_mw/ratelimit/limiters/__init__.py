"""Limiters of this process, independent of HTTP."""

from .decision import EPSILON, Decision
from .in_flight import InFlight
from .limiter import Limiter
from .plans import PlanLimiter, RateOf
from .rate import check_amount, parse_rate

__all__ = [
    "EPSILON",
    "Decision",
    "InFlight",
    "Limiter",
    "PlanLimiter",
    "RateOf",
    "check_amount",
    "parse_rate",
]

"""How much each key may still do, decided in this process; nothing here knows of HTTP."""

from .decision import EPSILON, Decision
from .in_flight import InFlight
from .limiter import Limiter
from .rate import check_amount, check_cost, parse_rate

__all__ = [
    "EPSILON",
    "Decision",
    "InFlight",
    "Limiter",
    "check_amount",
    "check_cost",
    "parse_rate",
]

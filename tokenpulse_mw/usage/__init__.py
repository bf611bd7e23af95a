"""Token usage of model responses, and its cost: bytes in, counts and prices out; no ASGI."""

from .account import Source, UsageAccount, UsageMeter
from .meter import meter_for
from .prices import Prices, PriceTable
from .rates import Cost, Price, Rates
from .reported_cost import check_cost, check_nanos, parse_cost
from .session import SessionResponse
from .tokens import TokenUsage
from .websocket import WebSocketMeter

__all__ = [
    "Cost",
    "Price",
    "PriceTable",
    "Prices",
    "Rates",
    "SessionResponse",
    "Source",
    "TokenUsage",
    "UsageAccount",
    "UsageMeter",
    "WebSocketMeter",
    "check_cost",
    "check_nanos",
    "meter_for",
    "parse_cost",
]

"""Token usage of model responses: bytes in, token counts out; no ASGI, no clock."""

from .account import Source, UsageAccount, UsageMeter
from .meter import meter_for
from .tokens import TokenUsage

__all__ = ["Source", "TokenUsage", "UsageAccount", "UsageMeter", "meter_for"]

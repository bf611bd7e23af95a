"""What an answer of a language model cost: bytes in, token counts out; no ASGI, no clock."""

from .ledger import Ledger, Source
from .meter import UsageMeter, meter_for
from .tokens import TokenUsage

__all__ = ["Ledger", "Source", "TokenUsage", "UsageMeter", "meter_for"]

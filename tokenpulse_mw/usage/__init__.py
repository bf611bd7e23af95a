"""What an answer of a language model cost: bytes in, token counts out; no ASGI, no clock."""

from .account import Source
from .ledger import Ledger
from .meter import meter_for
from .protocol import UsageMeter
from .tokens import TokenUsage

__all__ = ["Ledger", "Source", "TokenUsage", "UsageMeter", "meter_for"]

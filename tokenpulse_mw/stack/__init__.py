"""Wiring of all features: the only folder that imports all of them."""

from .token_pulse import TokenPulse

__all__ = ["TokenPulse"]

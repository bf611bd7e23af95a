"""Where the parts are wired together: the only room that knows them all."""

from .token_pulse import TokenPulse

__all__ = ["TokenPulse"]

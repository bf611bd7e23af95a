"""A gate, and one client who stands before it."""

from __future__ import annotations

from starlette.types import Scope

from tokenpulse_mw import Policy
from tokenpulse_mw.ratelimit.gate import Gate


def client(scope: Scope) -> str:
    """Everybody is the same client."""
    return "client"


def gate_of(*policies: Policy, enforce: bool = True) -> Gate:
    """A gate that tells nobody."""
    return Gate(policies, enforce=enforce, on_decision=None)

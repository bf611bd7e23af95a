"""A gate, and one client who stands before it."""

from __future__ import annotations

from starlette.types import Scope

from tokenpulse_mw import Policy
from tokenpulse_mw.ratelimit.policy_set import PolicySet


def client(scope: Scope) -> str:
    """Everybody is the same client."""
    return "client"


def gate_of(*policies: Policy, enforce: bool = True) -> PolicySet:
    """A gate that tells nobody."""
    return PolicySet(policies, enforce=enforce, on_decision=None)

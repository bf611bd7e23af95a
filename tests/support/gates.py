"""Policy sets for a single client."""

from __future__ import annotations

from starlette.types import Scope

from tokenpulse_mw import Policy
from tokenpulse_mw.ratelimit.policy_set import PolicySet


def client(scope: Scope) -> str:
    """Return the same key for every request."""
    return "client"


def policy_set_of(*policies: Policy, enforce: bool = True) -> PolicySet:
    """Return a policy set that does not report its decisions."""
    return PolicySet(policies, enforce=enforce, on_decision=None)

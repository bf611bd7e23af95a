"""Rate limiting: client keys, limiters, policies and the middleware."""

from . import keys
from .budgets import budgets
from .callables import KeyFunction
from .limiters import Decision, InFlight, Limiter
from .middleware import RateLimitMiddleware
from .paths import requests_to
from .policy import Policy, check_policies
from .policy_set import OnDecision
from .responses import (
    RESPONSES,
    Respond,
    anthropic_error,
    openai_error,
    problem_details,
    too_many_requests,
)
from .shared import SharedLimiter

__all__ = [
    "RESPONSES",
    "Decision",
    "InFlight",
    "KeyFunction",
    "Limiter",
    "OnDecision",
    "Policy",
    "RateLimitMiddleware",
    "Respond",
    "SharedLimiter",
    "anthropic_error",
    "budgets",
    "check_policies",
    "keys",
    "openai_error",
    "problem_details",
    "requests_to",
    "too_many_requests",
]

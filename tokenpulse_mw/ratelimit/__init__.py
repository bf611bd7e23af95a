"""Rate limiting: client keys, limiters, policies and the middleware."""

from . import keys
from .budgets import budgets
from .callables import KeyFunction
from .limiters import Decision, InFlight, Limiter, PlanLimiter, RateOf, StoredLimiter
from .middleware import RateLimitMiddleware
from .paths import exempt_paths, requests_to
from .policy import AnyLimiter, Policy, check_policies
from .policy_set import OnDecision
from .rejection import RateLimited
from .responses import (
    RESPONSES,
    Respond,
    anthropic_error,
    openai_error,
    problem_details,
    too_many_requests,
)
from .route_limits import (
    FROM_LIMIT,
    ConnectionCondition,
    ConnectionCost,
    RouteLimit,
    RouteLimits,
)

__all__ = [
    "FROM_LIMIT",
    "RESPONSES",
    "AnyLimiter",
    "ConnectionCondition",
    "ConnectionCost",
    "Decision",
    "InFlight",
    "KeyFunction",
    "Limiter",
    "OnDecision",
    "PlanLimiter",
    "Policy",
    "RateLimitMiddleware",
    "RateLimited",
    "RateOf",
    "Respond",
    "RouteLimit",
    "RouteLimits",
    "StoredLimiter",
    "anthropic_error",
    "budgets",
    "check_policies",
    "exempt_paths",
    "keys",
    "openai_error",
    "problem_details",
    "requests_to",
    "too_many_requests",
]

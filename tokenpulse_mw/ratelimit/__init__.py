"""Rate limiting: client keys, limiters, policies and the middleware."""

from . import keys
from .admin import KeepBlock, KeepLimit, LimitBody, limit_routes
from .blocked_keys import BlockedKeys, KeyBlock
from .budgets import budgets, quotas
from .callables import KeyFunction
from .limiters import (
    Decision,
    InFlight,
    Limiter,
    PlanLimiter,
    RateOf,
    RateTable,
    SavedWindow,
    StoredLimiter,
)
from .middleware import RateLimitMiddleware
from .paths import exempt_paths, requests_to
from .policy import AnyLimiter, Money, OnMissingCost, Policy, Reserve, check_policies
from .policy_set import OnDecision
from .rejection import RateLimited
from .rejections import Rejections
from .request_reserve import reserve_from_request, tokens_from_request
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
    ConnectionReserve,
    RouteLimit,
    RouteLimits,
)
from .weights import TokenWeights, Weight

__all__ = [
    "FROM_LIMIT",
    "RESPONSES",
    "AnyLimiter",
    "BlockedKeys",
    "ConnectionCondition",
    "ConnectionCost",
    "ConnectionReserve",
    "Decision",
    "InFlight",
    "KeepBlock",
    "KeepLimit",
    "KeyBlock",
    "KeyFunction",
    "LimitBody",
    "Limiter",
    "Money",
    "OnDecision",
    "OnMissingCost",
    "PlanLimiter",
    "Policy",
    "RateLimitMiddleware",
    "RateLimited",
    "RateOf",
    "RateTable",
    "Rejections",
    "Reserve",
    "Respond",
    "RouteLimit",
    "RouteLimits",
    "SavedWindow",
    "StoredLimiter",
    "TokenWeights",
    "Weight",
    "anthropic_error",
    "budgets",
    "check_policies",
    "exempt_paths",
    "keys",
    "limit_routes",
    "openai_error",
    "problem_details",
    "quotas",
    "requests_to",
    "reserve_from_request",
    "tokens_from_request",
    "too_many_requests",
]

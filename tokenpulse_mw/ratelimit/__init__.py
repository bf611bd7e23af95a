"""Who may ask how often: client keys, a bounded table of windows, and the middleware."""

from .answers import ANSWERS, anthropic_error, openai_error, problem_details, too_many_requests
from .budgets import budgets
from .functions import KeyFunction
from .keys import annotated, client_address, header, join, route
from .limiters import Decision, InFlight, Limiter
from .middleware import RateLimitMiddleware
from .paths import requests_to
from .policy import Policy, check_policies
from .shared import SharedLimiter

__all__ = [
    "ANSWERS",
    "Decision",
    "InFlight",
    "KeyFunction",
    "Limiter",
    "Policy",
    "RateLimitMiddleware",
    "SharedLimiter",
    "annotated",
    "anthropic_error",
    "budgets",
    "check_policies",
    "client_address",
    "header",
    "join",
    "openai_error",
    "problem_details",
    "requests_to",
    "route",
    "too_many_requests",
]

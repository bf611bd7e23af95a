"""The parts that settings call for, where the application brings none of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp

from ..alerts import AlertEngine, Quotas, default_rules, quota_exceeded
from ..alerts.store import SQLAlertStore
from ..config import Settings
from ..ratelimit import (
    ANSWERS,
    KeyFunction,
    Limiter,
    Policy,
    SharedLimiter,
    budgets,
    client_address,
)


def per_client(settings: Settings) -> Policy:
    """One limit for each client."""
    limit, strategy = settings.limit, settings.limit_strategy
    limiter: Limiter | SharedLimiter
    if settings.limit_storage is None:
        limiter = Limiter(limit, max_keys=settings.max_keys, strategy=strategy)
    else:
        limiter = SharedLimiter(
            limit,
            storage=settings.limit_storage,
            strategy=strategy,
            prefix=settings.limit_prefix,
            on_error=settings.limit_on_error,
            max_keys=settings.max_keys,
        )
    return Policy(limiter, key=address(settings))


def address(settings: Settings) -> KeyFunction:
    """Who is asking, by the address that the proxies of the settings tell."""
    return client_address(trusted=settings.trusted_proxies, header=settings.client_header)


def answer(name: str) -> Callable[[Any], ASGIApp]:
    """What limited requests are answered.

    Raises:
        ValueError: There is no answer of that name.
    """
    if name not in ANSWERS:
        raise ValueError(f"limit_answer {name!r} is not known: expected one of {list(ANSWERS)}")
    return ANSWERS[name]


def engine(settings: Settings, policies: Iterable[Policy]) -> AlertEngine:
    """One with the default rules, which knows the token limits and keeps what is to be kept."""
    rules, used = default_rules(), budgets(policies)
    if used is not None:
        rules.append(quota_exceeded(Quotas(used)))
    store = None if settings.alert_store is None else SQLAlertStore(settings.alert_store)
    return AlertEngine(rules, interval=settings.alert_interval, store=store)

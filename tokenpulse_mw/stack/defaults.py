"""The parts that settings call for, where the application brings none of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from ..alerts import AlertEngine, Quotas, alert_routes, default_rules, quota_exceeded
from ..alerts.store import SQLAlertStore
from ..config import Settings
from ..health import CheckResult, Observed
from ..logs import settings_routes
from ..ratelimit import (
    ANSWERS,
    Limiter,
    Policy,
    SharedLimiter,
    budgets,
    check_policies,
    client_address,
)
from ..secret import hide
from ..web import bearer
from .heed import check_heeded, set_by

logger = logging.getLogger("tokenpulse_mw")

_OF_LIMIT = ("limit", "max_keys", "limit_strategy", "limit_storage", "limit_prefix")
_OF_ENGINE = ("alert_interval", "alert_store")
_SHORT = 16  # characters of a token; one that is shorter can be guessed


def policies(settings: Settings, given: Iterable[Policy] | None) -> list[Policy]:
    """The limits that are given, else one for each client as the settings say.

    Those without a key are by the client's address.

    Raises:
        ValueError: They are malformed, or some are given, and settings that they would not heed.
    """
    if given is None:
        with set_by(*_OF_LIMIT):
            found = [_per_client(settings)]
    else:
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"policies must be a list of Policy, got {given!r}")
        found = list(given)
        names = (*_OF_LIMIT, "limit_on_error")
        check_heeded(settings, names, "policies", "give it to a Policy or its limiter")
    check_policies(found)
    with set_by("trusted_proxies", "client_header"):
        address = client_address(trusted=settings.trusted_proxies, header=settings.client_header)
    for policy in found:
        if not policy.has_key:
            policy.key = address
    return found


def _per_client(settings: Settings) -> Policy:
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
    return Policy(limiter)


def answer(name: str) -> Callable[[Any], ASGIApp]:
    """What limited requests are answered.

    Raises:
        ValueError: There is no answer of that name.
    """
    if name not in ANSWERS:
        raise ValueError(f"limit_answer {name!r} is not known: expected one of {list(ANSWERS)}")
    return ANSWERS[name]


def engine(
    settings: Settings, policies: Iterable[Policy], given: AlertEngine | None
) -> AlertEngine:
    """The one that is given, else one with the default rules and what the settings say.

    Raises:
        ValueError: An engine is given, and settings that it would not heed.
    """
    if given is not None:
        if not isinstance(given, AlertEngine):
            raise ValueError(
                "engine must be an AlertEngine, such as AlertEngine(), "
                f"got one of type {type(given).__name__}"
            )
        check_heeded(settings, _OF_ENGINE, "an engine", "give it to the engine")
        return given
    rules, used = default_rules(), budgets(policies)
    if used is not None:
        rules.append(quota_exceeded(Quotas(used)))
    with set_by(*_OF_ENGINE):
        store = None if settings.alert_store is None else SQLAlertStore(settings.alert_store)
        return AlertEngine(rules, interval=settings.alert_interval, store=store)


def admin(settings: Settings) -> Callable[[Request], bool] | None:
    """Who may see and change what is not for everyone; None where nobody may."""
    if settings.admin_token is None:
        return None
    with set_by("admin_token"):
        authorize = bearer(settings.admin_token)
    length = len(hide(settings.admin_token).reveal())
    if length < _SHORT:
        logger.warning(
            "admin_token has %d characters and can be guessed: use at least %d",
            length,
            _SHORT,
        )
    return authorize


def scraper(settings: Settings) -> Callable[[Request], bool] | None:
    """Who may read the metrics; None where everyone may."""
    with set_by("metrics_token"):
        return None if settings.metrics_token is None else bearer(settings.metrics_token)


def admin_routes(engine: AlertEngine, authorize: Callable[[Request], bool] | None) -> list[Route]:
    """What people on call read and change; nothing where no token for it is set."""
    if authorize is None:
        return []
    return [*alert_routes(engine, authorize=authorize), *settings_routes(authorize=authorize)]


class AlertedProviders:
    """The providers that an alert says are down: health and alerts never disagree."""

    def __init__(self, engine: AlertEngine) -> None:
        self._engine = engine

    def report(self) -> dict[str, Observed]:
        """A warning for each credential and provider that has failed too often in a row."""
        at = time.time()
        return {
            f"{finding.subject.name or finding.subject.id}:consecutiveFailures": Observed(
                CheckResult(
                    status="warn",
                    observed_value=finding.value,
                    observed_unit="failures",
                    output=finding.title,
                ),
                at,
                "component",
            )
            for finding in self._engine.firing
            if finding.type == "provider_down"
        }

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
from ..logs import ACCESS_LOGGER, LEVELS, configure_logging, settings_routes
from ..ratelimit import (
    ANSWERS,
    KeyFunction,
    Limiter,
    Policy,
    SharedLimiter,
    budgets,
    client_address,
)
from ..web import bearer


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


def engine(
    settings: Settings, policies: Iterable[Policy], given: AlertEngine | None
) -> AlertEngine:
    """The one that is given, else one with the default rules and what the settings say.

    Raises:
        ValueError: An engine is given, and settings that it would not heed.
    """
    if given is not None:
        for name, heeded in (
            ("alert_store", settings.alert_store is None),
            ("alert_interval", settings.alert_interval in (60, given.interval)),
        ):
            if not heeded:
                raise ValueError(
                    f"{name} is for the engine that TokenPulse makes: leave it out, or give it to "
                    f"the engine instead, as in AlertEngine({name.removeprefix('alert_')}=...)"
                )
        return given
    rules, used = default_rules(), budgets(policies)
    if used is not None:
        rules.append(quota_exceeded(Quotas(used)))
    store = None if settings.alert_store is None else SQLAlertStore(settings.alert_store)
    return AlertEngine(rules, interval=settings.alert_interval, store=store)


def admin(settings: Settings) -> Callable[[Request], bool] | None:
    """Who may see and change what is not for everyone; None where nobody may."""
    return None if settings.admin_token is None else bearer(settings.admin_token)


def admin_routes(settings: Settings, engine: AlertEngine) -> list[Route]:
    """What people on call read and change; nothing where no token for it is set."""
    authorize = admin(settings)
    if authorize is None:
        return []
    return [*alert_routes(engine, authorize=authorize), *settings_routes(authorize=authorize)]


def check_logs(settings: Settings) -> None:
    """Refuse a level or a format that there is not, before the server starts.

    Raises:
        ValueError: There is none such.
    """
    given = {
        "log_level": (settings.log_level, (None, *LEVELS)),
        "log_format": (settings.log_format, ("text", "json")),
    }
    for name, (value, known) in given.items():
        if value not in known:
            names = ", ".join(each for each in known if each is not None)
            raise ValueError(f"{name} {value!r} is not known: expected one of {names}")


def configure_logs(settings: Settings) -> None:
    """Log as the settings say, and tell whoever wants an access log that nobody would see it."""
    if settings.log_level is not None:
        configure_logging(settings.log_level, settings.log_format, request_id=settings.access_log)
    access = logging.getLogger(ACCESS_LOGGER)
    if settings.access_log and not access.isEnabledFor(logging.INFO):
        access.warning(
            "the access log is not written, as the level of logging is above INFO: call "
            "configure_logging(), or set TOKENPULSE_LOG_LEVEL=INFO"
        )


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

"""The parts that settings call for, where the application brings none of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from ..alerts import AlertEngine, Quotas, alert_routes, default_rules, quota_exceeded
from ..alerts.store import SQLAlertStore
from ..config import PREFIX, Settings
from ..health import CheckResult, Observation
from ..logs import ACCESS_LOGGER, check_level, configure_logging, formatter_for, settings_routes
from ..ratelimit import (
    RESPONSES,
    KeyFunction,
    Limiter,
    Policy,
    SharedLimiter,
    budgets,
    check_policies,
    keys,
)
from ..secret import hide
from ..web.auth import bearer

logger = logging.getLogger("tokenpulse_mw")


_OF_LIMIT = ("limit", "max_keys", "limit_strategy", "limit_storage", "limit_prefix")


_OF_ENGINE = ("alert_interval", "alert_store")


_SHORT = 16  # characters of a token; one that is shorter can be guessed


def policies(settings: Settings, given: Iterable[Policy] | None) -> list[Policy]:
    """The limits that are given, else one for each client as the settings say.

    Raises:
        ValueError: They are malformed, or some are given, and settings that they would not heed.
    """
    if given is None:
        with blame_settings(*_OF_LIMIT):
            found = [_per_client(settings)]
    else:
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"policies must be a list of Policy, got {given!r}")
        found = list(given)
        names = (*_OF_LIMIT, "limit_on_error")
        check_unused(settings, names, "policies", "give it to a Policy or its limiter")
    check_policies(found)
    return found


def client_key(settings: Settings) -> KeyFunction:
    """Return the key of policies without one: the client's address, as the settings define it.

    Raises:
        ValueError: The trusted proxies or the client header are malformed.
    """
    with blame_settings("trusted_proxies", "client_header"):
        return keys.client_address(trusted=settings.trusted_proxies, header=settings.client_header)


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


def response_for(name: str) -> Callable[[Any], ASGIApp]:
    """What limited requests are answered.

    Raises:
        ValueError: There is no answer of that name.
    """
    if name not in RESPONSES:
        raise ValueError(f"limit_answer {name!r} is not known: expected one of {list(RESPONSES)}")
    return RESPONSES[name]


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
        check_unused(settings, _OF_ENGINE, "an engine", "give it to the engine")
        return given
    rules, used = default_rules(), budgets(policies)
    if used is not None:
        rules.append(quota_exceeded(Quotas(used)))
    with blame_settings(*_OF_ENGINE):
        store = None if settings.alert_store is None else SQLAlertStore(settings.alert_store)
        return AlertEngine(rules, interval=settings.alert_interval, store=store)


def admin_guard(settings: Settings) -> Callable[[Request], bool] | None:
    """Who may see and change what is not for everyone; None where nobody may."""
    if settings.admin_token is None:
        return None
    with blame_settings("admin_token"):
        authorize = bearer(settings.admin_token)
    length = len(hide(settings.admin_token).reveal())
    if length < _SHORT:
        logger.warning(
            "admin_token has %d characters and can be guessed: use at least %d",
            length,
            _SHORT,
        )
    return authorize


def metrics_guard(settings: Settings) -> Callable[[Request], bool] | None:
    """Who may read the metrics; None where everyone may."""
    with blame_settings("metrics_token"):
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

    def report(self) -> dict[str, Observation]:
        """A warning for each credential and provider that has failed too often in a row."""
        at = time.time()
        return {
            f"{finding.subject.name or finding.subject.id}:consecutiveFailures": Observation(
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


_DEFAULTS = Settings()


@contextmanager
def blame_settings(*names: str) -> Iterator[None]:
    """Where a part refuses what it is made of, say by which settings that came."""
    try:
        yield
    except ValueError as error:
        variables = ", ".join(f"{PREFIX}{name.upper()}" for name in names)
        raise ValueError(f"{error} (set by {', '.join(names)}; {variables})") from error


def check_unused(settings: Settings, names: Sequence[str], by: str, instead: str) -> None:
    """Refuse settings that have no effect: whoever has set them believes that they have.

    Args:
        settings: What the operator has set.
        names: Settings that must be the defaults.
        by: What was given in their place.
        instead: What to do with them.

    Raises:
        ValueError: One of them is not the default.
    """
    for name in names:
        if getattr(settings, name) != getattr(_DEFAULTS, name):
            raise ValueError(
                f"{name} ({PREFIX}{name.upper()}) is not heeded where TokenPulse is given {by}: "
                f"leave it out, or {instead}"
            )


def check_logs(settings: Settings) -> None:
    """Refuse a level or a format that there is not, before the server starts.

    Raises:
        ValueError: There is none such.
    """
    if settings.log_level is not None:
        with blame_settings("log_level"):
            check_level(settings.log_level)
    if settings.log_format is not None:
        with blame_settings("log_format"):
            formatter_for(settings.log_format)


def configure_logs(settings: Settings) -> None:
    """Log as the settings say, and tell whoever wants an access log that nobody would see it."""
    if settings.log_level is not None or settings.log_format is not None:
        configure_logging(
            settings.log_level or "INFO",
            settings.log_format or "text",
            capture=["uvicorn"],  # a log is of one format, the server's lines with it
            request_id=settings.access_log,
        )
    access = logging.getLogger(ACCESS_LOGGER)
    if settings.access_log and not access.isEnabledFor(logging.INFO):
        access.warning(
            "the access log is not written, as the level of logging is above INFO: call "
            "configure_logging(), or set TOKENPULSE_LOG_LEVEL=INFO"
        )

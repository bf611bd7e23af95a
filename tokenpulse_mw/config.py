"""Settings: what an operator may change without touching code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches

from .secret import Secret, hide, hide_arguments, hide_url
from .validation import check_seconds

logger = logging.getLogger("tokenpulse_mw")

PREFIX = "TOKENPULSE_"
_MOST_DIGITS = 15
_HIDDEN: dict[str, Callable[[str], Secret[str]]] = {
    "limit_storage": hide_url,
    "metrics_token": hide,
    "alert_store": hide_url,
    "admin_token": hide,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of `TokenPulse`.

    `limit_storage`, `metrics_token`, `alert_store` and `admin_token` are given as strings and kept
    as `Secret`: neither `repr`, `str` nor `dataclasses.asdict` shows them, and settings that have
    one cannot be pickled. Call `reveal()` to read the string.

    Attributes:
        limit: Limit of each client, such as "100/minute".
        max_keys: Clients that the limiter tracks individually.
        limit_strategy: "fixed-window", "sliding-window-counter" or "gcra".
        limit_storage: Storage in which several processes count together, such as
            "async+redis://localhost:6379"; None counts in each process alone.
        limit_prefix: Prefix of the counters there; applications that share a storage and do not
            share limits need different ones.
        limit_on_error: Decides while the storage is unavailable: "local", "allow" or "deny".
        limit_headers: Dialect of the headers: "draft-11", "openai", "legacy" or None.
        limit_response: Format of 429 responses: "text", "problem", "openai" or "anthropic".
        limit_enforce: False counts and reports without rejecting (shadow mode).
        trusted_proxies: Networks of proxies whose `client_header` is trusted.
        client_header: Header in which the proxies name the client.
        metrics_token: Bearer token of `/metrics`; None makes it public.
        alert_interval: Seconds between two evaluations of the alert engine.
        alert_store: Database of the alerts, such as "sqlite+aiosqlite:///alerts.db"; None keeps
            them in memory.
        access_log: Log a line with an id for each request.
        log_level: "DEBUG", "INFO", "WARN" or "ERROR". If this or `log_format` is set, logging is
            configured for the whole process when the application starts, including the server's
            lines. If both are None, the application configures logging.
        log_format: "text" or "json".
        admin_token: Bearer token of `/admin` and of the health details; None serves nothing
            there. Requests with it are not limited; requests with a wrong token are.
        drain_delay: Seconds between SIGTERM and the server's shutdown, in which the service is not
            ready and still serves; 0 leaves SIGTERM to the server.

    Raises:
        ValueError: A time or a bool is invalid. Other values are checked by the part that uses
            them when `TokenPulse` is constructed.
    """

    limit: str = "100/minute"
    max_keys: int = 5000
    limit_strategy: str = "fixed-window"
    limit_storage: str | Secret[str] | None = None
    limit_prefix: str = "tokenpulse"
    limit_on_error: str = "local"
    limit_headers: str | None = "draft-11"
    limit_response: str = "text"
    limit_enforce: bool = True
    trusted_proxies: tuple[str, ...] = ()
    client_header: str = "x-forwarded-for"
    metrics_token: str | Secret[str] | None = None
    alert_interval: float = 60
    alert_store: str | Secret[str] | None = None
    access_log: bool = False
    log_level: str | None = None
    log_format: str | None = None
    admin_token: str | Secret[str] | None = None
    drain_delay: float = 3

    def __post_init__(self) -> None:
        for name, hidden in _HIDDEN.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, hidden(value))
        for name in ("limit_enforce", "access_log"):
            if type(value := getattr(self, name)) is not bool:  # "false" would be true
                raise ValueError(f"{name} must be True or False, got {value!r}")
        check_seconds("alert_interval", self.alert_interval)
        check_seconds("drain_delay", self.drain_delay, zero=True)

    @classmethod
    @hide_arguments
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read `TOKENPULSE_LIMIT`, `TOKENPULSE_TRUSTED_PROXIES` (separated by commas), ...

        Empty variables are ignored, except tokens, which are rejected. The names of the monitoring
        guide also work: `TOKENPULSE_WINDOW_MS` and `TOKENPULSE_MAX_REQUESTS` set the limit,
        `TOKENPULSE_MAX_STATIONS` is `max_keys`.

        Raises:
            ValueError: A variable is invalid, or two variables set the same setting.
        """
        given = {
            name.removeprefix(PREFIX): value
            for name, value in environ.items()
            if name.startswith(PREFIX)
        }
        _warn_of_unknown(given)
        given = {name: value for name, value in given.items() if value.strip() or name in _TOKENS}
        proxies = given.get("TRUSTED_PROXIES", "").split(",")
        headers = given.get("LIMIT_HEADERS", "draft-11")
        return cls(
            limit=_limit(given),
            max_keys=_max_keys(given),
            limit_strategy=given.get("LIMIT_STRATEGY", "fixed-window"),
            limit_storage=given.get("LIMIT_STORAGE"),
            limit_prefix=given.get("LIMIT_PREFIX", "tokenpulse"),
            limit_on_error=given.get("LIMIT_ON_ERROR", "local"),
            limit_headers=None if headers == "none" else headers,
            limit_response=given.get("LIMIT_RESPONSE", "text"),
            limit_enforce=_true(given, "LIMIT_ENFORCE", "true"),
            client_header=given.get("CLIENT_HEADER", "x-forwarded-for"),
            trusted_proxies=tuple(proxy.strip() for proxy in proxies if proxy.strip()),
            metrics_token=_token(given, "METRICS_TOKEN"),
            alert_interval=_whole(given, "ALERT_INTERVAL", 60),
            alert_store=given.get("ALERT_STORE"),
            access_log=_true(given, "ACCESS_LOG", "false"),
            log_level=given.get("LOG_LEVEL"),
            log_format=given.get("LOG_FORMAT"),
            admin_token=_token(given, "ADMIN_TOKEN"),
            drain_delay=_whole(given, "DRAIN_DELAY", 3, least=0),
        )


Settings.__init__ = hide_arguments(Settings.__init__)  # type: ignore[method-assign]


def _limit(given: Mapping[str, str]) -> str:
    seeds = [name for name in ("WINDOW_MS", "MAX_REQUESTS") if name in given]
    if not seeds:
        return given.get("LIMIT", "100/minute")
    if "LIMIT" in given:
        raise ValueError(f"give {PREFIX}LIMIT or {PREFIX}{seeds[0]}, not both")
    seconds, rest = divmod(_whole(given, "WINDOW_MS", 60_000), 1000)
    if rest:
        raise ValueError(
            f"{PREFIX}WINDOW_MS must be whole seconds, such as 60000, got {given['WINDOW_MS']!r}"
        )
    return f"{_whole(given, 'MAX_REQUESTS', 100)} per {seconds} seconds"


def _max_keys(given: Mapping[str, str]) -> int:
    if "MAX_STATIONS" not in given:
        return _whole(given, "MAX_KEYS", 5000)
    if "MAX_KEYS" in given:
        raise ValueError(f"give {PREFIX}MAX_KEYS or {PREFIX}MAX_STATIONS, not both")
    return _whole(given, "MAX_STATIONS", 5000)


def _whole(given: Mapping[str, str], name: str, default: int, *, least: int = 1) -> int:
    value = given.get(name, str(default)).strip()
    digits = value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS
    if not digits or int(value) < least:
        raise ValueError(
            f"{PREFIX}{name} must be a whole number of at least {least}, got {value[:50]!r}"
        )
    return int(value)


def _token(given: Mapping[str, str], name: str) -> str | None:
    if given.get(name) == "":  # the operator expects it to be required
        raise ValueError(f"{PREFIX}{name} must not be empty: set a token, or remove the variable")
    return given.get(name)


def _warn_of_unknown(given: Mapping[str, str]) -> None:
    """Log a warning for each unknown variable, with the nearest name."""
    for name in given:
        # Kubernetes sets such variables for a service named tokenpulse.
        if name not in _NAMES and not name.startswith(("SERVICE_", "PORT")):
            near = "".join(
                f"; did you mean {PREFIX}{close}?" for close in get_close_matches(name, _NAMES, n=1)
            )
            logger.warning("unknown setting: name=%s%s%s", PREFIX, name, near)


def _true(given: Mapping[str, str], name: str, default: str) -> bool:
    value = given.get(name, default).strip().lower()
    if value not in ("true", "false", "1", "0"):
        raise ValueError(f"{PREFIX}{name} must be 'true' or 'false', got {given[name]!r}")
    return value in ("true", "1")


_TOKENS = ("METRICS_TOKEN", "ADMIN_TOKEN")
_SEEDS_NAMES = ("WINDOW_MS", "MAX_REQUESTS", "MAX_STATIONS")
_NAMES = (*(each.name.upper() for each in fields(Settings)), *_SEEDS_NAMES)

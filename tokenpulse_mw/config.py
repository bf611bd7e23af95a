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
    """What `TokenPulse` is built from.

    `limit_storage`, `metrics_token`, `alert_store` and `admin_token` are given as strings and kept
    as `Secret`: neither `repr`, `str` nor `dataclasses.asdict` shows them, and settings that have
    one cannot be pickled. Call `reveal()` to read the string.

    Attributes:
        limit: Requests that each client may make, such as "100/minute".
        max_keys: Clients that the limiter keeps one by one.
        limit_strategy: "fixed-window", "sliding-window-counter" or "gcra".
        limit_storage: Where several processes count together, such as
            "async+redis://localhost:6379"; None counts in each process alone.
        limit_prefix: What the counters' names begin with there; applications that share a storage
            and are not to count together need different ones.
        limit_on_error: What decides while that storage cannot be asked: "local", "allow" or "deny".
        limit_headers: The dialect of the headers: "draft-11", "openai", "legacy" or None.
        limit_response: What a limited request is answered: "text", "problem", "openai" or
            "anthropic".
        limit_enforce: False only counts and tells (shadow mode).
        trusted_proxies: Networks of proxies that may say who the client is.
        client_header: The header in which they say so.
        metrics_token: Bearer token that `/metrics` asks for; None lets everyone read it.
        alert_interval: Seconds between two rounds of the alert engine.
        alert_store: The database that keeps alerts over a restart, such as
            "sqlite+aiosqlite:///alerts.db"; None keeps them in memory.
        access_log: Log a line for each request, and give each an id.
        log_level: "DEBUG", "INFO", "WARN" or "ERROR". Where this or `log_format` is given, logging
            is configured when the application starts, for the whole process, the server's own
            lines with it; where both are None, it is left to the application.
        log_format: "text" or "json".
        admin_token: Bearer token that `/admin` and the details of health ask for; None serves
            nothing there. Requests with it are not limited, requests with a wrong one are.
        drain_delay: Seconds that are served on after SIGTERM, not ready any more, before the
            server ends; 0 leaves SIGTERM to the server.

    Raises:
        ValueError: A time or a switch is none. Whatever else is malformed is refused by the part
            that it is for, when `TokenPulse` is made.
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
            if type(value := getattr(self, name)) is not bool:  # such as the word "false"
                raise ValueError(f"{name} must be True or False, got {value!r}")
        check_seconds("alert_interval", self.alert_interval)
        check_seconds("drain_delay", self.drain_delay, zero=True)

    @classmethod
    @hide_arguments
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read `TOKENPULSE_LIMIT`, `TOKENPULSE_TRUSTED_PROXIES` (separated by commas), ...

        An empty variable is as good as none, but for the tokens. The seed's names work too:
        `TOKENPULSE_WINDOW_MS` and `TOKENPULSE_MAX_REQUESTS` make the limit,
        `TOKENPULSE_MAX_STATIONS` is `max_keys`.

        Raises:
            ValueError: A variable is malformed, or says the same as another.
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
            limit_response=given.get("LIMIT_ANSWER", "text"),
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
    if given.get(name) == "":  # whoever set it believes that it is asked for
        raise ValueError(
            f"{PREFIX}{name} is empty, and would let everyone in: give a token, or leave it out"
        )
    return given.get(name)


def _warn_of_unknown(given: Mapping[str, str]) -> None:
    """A setting that is misspelled is not in force; whoever set it believes that it is."""
    for name in given:
        # Those of a Kubernetes service that is called like us are nobody's mistake.
        if name not in _NAMES and not name.startswith(("SERVICE_", "PORT")):
            near = "".join(
                f": did you mean {PREFIX}{each}?" for each in get_close_matches(name, _NAMES, n=1)
            )
            logger.warning("%s%s is no setting%s", PREFIX, name, near)


def _true(given: Mapping[str, str], name: str, default: str) -> bool:
    value = given.get(name, default).strip().lower()
    if value not in ("true", "false", "1", "0"):
        raise ValueError(f"{PREFIX}{name} must be 'true' or 'false', got {given[name]!r}")
    return value in ("true", "1")


_TOKENS = ("METRICS_TOKEN", "ADMIN_TOKEN")
_SEEDS_NAMES = ("WINDOW_MS", "MAX_REQUESTS", "MAX_STATIONS")
_NAMES = (*(each.name.upper() for each in fields(Settings)), *_SEEDS_NAMES)

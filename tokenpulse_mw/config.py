"""Settings: what an operator may change without touching code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "TOKENPULSE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `TokenPulse` is built from.

    Attributes:
        limit: Requests that each client may make, such as "100/minute".
        max_keys: Clients that the limiter keeps one by one.
        trusted_proxies: Networks whose `X-Forwarded-For` is believed.
        metrics_token: Bearer token that `/metrics` asks for; None lets everyone read it.
        alert_interval: Seconds between two rounds of the alert engine.
    """

    limit: str = "100/minute"
    max_keys: int = 5000
    trusted_proxies: tuple[str, ...] = ()
    metrics_token: str | None = None
    alert_interval: float = 60

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read `TOKENPULSE_LIMIT`, `TOKENPULSE_TRUSTED_PROXIES` (separated by commas), ...

        The seed's names work too: `TOKENPULSE_WINDOW_MS` and `TOKENPULSE_MAX_REQUESTS` make the
        limit, `TOKENPULSE_MAX_STATIONS` is `max_keys`.

        Raises:
            ValueError: A variable is malformed, or says the same as another.
        """
        given = {
            name.removeprefix(PREFIX): value
            for name, value in environ.items()
            if name.startswith(PREFIX)
        }
        proxies = given.get("TRUSTED_PROXIES", "").split(",")
        return cls(
            limit=_limit(given),
            max_keys=_max_keys(given),
            trusted_proxies=tuple(proxy.strip() for proxy in proxies if proxy.strip()),
            metrics_token=given.get("METRICS_TOKEN"),
            alert_interval=_whole(given, "ALERT_INTERVAL", 60),
        )


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


def _whole(given: Mapping[str, str], name: str, default: int) -> int:
    value = given.get(name, str(default)).strip()
    if not (value.isascii() and value.isdigit()) or int(value) < 1:
        raise ValueError(f"{PREFIX}{name} must be a whole number of at least 1, got {value!r}")
    return int(value)

"""URLs of databases: their schemes and options, and the arguments of the driver for them."""

from __future__ import annotations

import logging
import ssl
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from ....secret import Secret
from ....validation import check_choice, check_seconds

logger = logging.getLogger("tokenpulse_mw.alerts")

EXAMPLES = "'sqlite+aiosqlite:///alerts.db' or 'postgresql+asyncpg://user:password@host/name'"

_SCHEMES = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}
# Read by SQLAlchemy.
_LOCATION = {"host", "port", "user", "password", "database"}
_SQLITE = {
    *("cached_statements", "check_same_thread", "detect_types", "isolation_level", "timeout", "uri")
}
# Read by asyncpg in a DSN; it sends the last two to the server.
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": (
        "any",
        "primary",
        "standby",
        "read-write",
        "read-only",
        "prefer-standby",
    ),
}
_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
_DSN = {
    *_CHOICES,
    *_FILES,
    *("sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("dbname", "passfile", "service", "krbsrvname", "gsslib"),
    *("application_name", "options"),
}
_SSL = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
_SECONDS = {
    "connect_timeout": "timeout",
    "timeout": "timeout",
    "command_timeout": "command_timeout",
}
# Ask for statements that are not prepared by name, which is always the case.
_POOLERS = {"pgbouncer", "prepareThreshold", "prepare_threshold", "prepared_statements"}
_NO_EFFECT = {
    *("channel_binding", "client_encoding", "connection_limit", "gssencmode", "keepalives"),
    *("keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts"),
    *("max_cacheable_statement_size", "max_cached_statement_lifetime", "pool_timeout"),
    *("prepared_statement_cache_size", "socket_timeout", "sslcompression", "sslsni"),
    *("statement_cache_size", "supa", "tcp_user_timeout", "uselibpqcompat"),
}
_KNOWN = _LOCATION | _DSN | {"ssl"} | _SECONDS.keys() | _POOLERS | _NO_EFFECT


def parse_url(url: Secret[str]) -> URL:
    """Return the parsed URL of a database, with a driver if it names none.

    Raises:
        ValueError: `url` is not the URL of a supported database. A URL that cannot be parsed is not
            shown, because any part of it may be a password.
    """
    try:
        parsed = make_url(url.reveal())
    except (ArgumentError, ValueError, TypeError, AttributeError):
        raise ValueError(
            f"url must be the URL of a database, such as {EXAMPLES}, got a value that cannot be "
            "parsed"
        ) from None
    parsed = parsed.set(drivername=_SCHEMES.get(parsed.drivername, parsed.drivername))
    name = parsed.get_backend_name()
    if name not in ("sqlite", "postgresql"):
        raise ValueError(
            f"url must be the URL of a SQLite or PostgreSQL database, such as {EXAMPLES}, got "
            f"one of {name!r}"
        )
    if name == "sqlite" and parsed.host:
        raise ValueError(
            f"url must have three slashes before the file, such as {EXAMPLES}, got {url!r}"
        )
    if name == "sqlite" and _is_in_memory(parsed):
        raise ValueError(
            f"url must name a file, such as {EXAMPLES}, got {url!r}: "
            "for a store in memory use MemoryAlertStore"
        )
    if not _is_asynchronous(parsed):
        raise ValueError(
            f"url must name an asynchronous driver, such as {EXAMPLES}, got {str(url)!r}"
        )
    return parsed


def sqlite_file(url: URL) -> Path:
    """Return the path of the file of a SQLite URL."""
    return Path((url.database or "").removeprefix("file:"))


def driver_arguments(url: URL) -> tuple[URL, dict[str, Any]]:
    """Return `url` without the options that its driver is given, and the arguments for them.

    The options are those that cloud vendors and other clients of PostgreSQL use. An INFO line is
    logged for each option without effect.

    Raises:
        ValueError: An option is unknown or invalid.
    """
    options = dict(url.query)
    if url.drivername == "sqlite+aiosqlite":
        if options.get("uri") not in ("true", "1"):  # else SQLite reads all of them
            _check_names(options, _SQLITE)
        return url, {}
    if url.drivername != "postgresql+asyncpg":
        return url, {}
    _check_names(options, _KNOWN)
    query = {name: options.pop(name) for name in _LOCATION & options.keys()}
    values = {name: _single(name, value) for name, value in options.items()}
    for name in sorted(_NO_EFFECT & values.keys()):
        logger.info("option of the database URL has no effect: name=%s", name)
    return url.set(query=query), _asyncpg_arguments(values)


def _asyncpg_arguments(values: dict[str, str]) -> dict[str, Any]:
    # A pooler such as PgBouncer runs each transaction on another connection of the server, where
    # the statements that this one has prepared by name are missing.
    arguments: dict[str, Any] = {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,  # returns ""
    }
    for name, argument in _SECONDS.items():
        if name in values:
            arguments[argument] = _seconds(name, values[name])
    if "ssl" in values:
        mode = _SSL.get(values["ssl"], values["ssl"])
        check_choice("ssl in url", mode, _CHOICES["sslmode"])
        values.setdefault("sslmode", mode)
    for name, choices in _CHOICES.items():
        if name in values:
            check_choice(f"{name} in url", values[name], choices)
    if values.get("sslrootcert") == "system":
        arguments["ssl"] = _system_certificates(values)
    for name in sorted(_FILES & values.keys()):
        if not Path(values[name]).is_file():
            raise ValueError(f"{name} in url must be the path of a file, got {values[name]!r}")
    dsn = {name: value for name, value in values.items() if name in _DSN}
    if dsn:
        arguments["dsn"] = f"postgresql://?{urlencode(dsn)}"
    return arguments


def _system_certificates(values: dict[str, str]) -> ssl.SSLContext:
    """Take `sslrootcert=system` and `sslmode` from the options, and return what they ask for."""
    del values["sslrootcert"]
    mode = values.pop("sslmode", "verify-full")
    check_choice("sslmode in url with sslrootcert=system", mode, ("verify-full",))
    for name in sorted(values):
        if name in _FILES or name.startswith("ssl_"):
            raise ValueError(f"url must not have both sslrootcert=system and {name}")
    return ssl.create_default_context()


def _check_names(options: dict[str, Any], known: set[str]) -> None:
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "remove it"
            raise ValueError(f"url must have options of its driver, got {name!r}: {hint}")


def _single(name: str, value: str | tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} in url must be given once, got {len(value)} values")
    return value


def _seconds(name: str, text: str) -> float:
    try:
        seconds: float | str = float(text)
    except ValueError:
        seconds = text
    check_seconds(f"{name} in url", seconds)
    return float(seconds)


def _is_asynchronous(url: URL) -> bool:
    """Return True if the driver is asynchronous, even if it is not installed."""
    try:
        return url.get_dialect().get_async_dialect_cls(url).is_async
    except NoSuchModuleError:
        return False


def _is_in_memory(url: URL) -> bool:
    name = url.database or ":memory:"
    return ":memory:" in name or url.query.get("mode") == "memory"

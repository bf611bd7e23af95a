"""The URL of a database: what it may be, and how to speak of it without its secrets."""

from __future__ import annotations

from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

EXAMPLES = "'sqlite+aiosqlite:///alerts.db' or 'postgresql+asyncpg://user:password@host/name'"


def checked(url: str, kinds: object) -> URL:
    """`url` in its parts.

    Args:
        url: As it is given.
        kinds: The kinds of databases that can be used, by name.

    Raises:
        ValueError: It is not the URL of a database that can be used. The text of it is not told,
            for nobody knows which part of it is a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError, TypeError, AttributeError):
        raise ValueError(f"url must be that of a database, such as {EXAMPLES}") from None
    kind = parsed.get_backend_name()
    if kind not in list(kinds):  # type: ignore[call-overload]
        raise ValueError(f"url must be like {EXAMPLES}, got one of {kind!r}")
    if kind == "sqlite" and _in_memory(parsed):
        raise ValueError(
            f"url must name a file, as in {EXAMPLES}, got {masked(parsed)!r}: "
            "for a store in memory use MemoryAlertStore"
        )
    return parsed


def masked(url: URL) -> str:
    """`url` with nothing in it that may be secret."""
    return url.set(query={}).render_as_string(hide_password=True)


def secrets(url: URL) -> set[str]:
    """What must not be told of `url`, longest first where it is replaced."""
    values = [value for name, value in url.normalized_query.items() if "pass" in name]
    told = {url.password or "", *(each for value in values for each in value)}
    return {each for secret in told for each in (secret, unquote(secret)) if each}


def _in_memory(url: URL) -> bool:
    name = url.database or ":memory:"
    return ":memory:" in name or url.query.get("mode") == "memory"

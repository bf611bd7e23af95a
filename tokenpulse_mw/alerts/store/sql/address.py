"""The URL of a database."""

from __future__ import annotations

from collections.abc import Container

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from ....secret import Secret

EXAMPLES = "'sqlite+aiosqlite:///alerts.db' or 'postgresql+asyncpg://user:password@host/name'"


def backend(url: Secret[str], kinds: Container[str]) -> str:
    """Return the kind of the database at `url`.

    Args:
        url: As it is given.
        kinds: The kinds of databases that can be used, by name.

    Raises:
        ValueError: It is not the URL of a database that can be used. What cannot be parsed is not
            quoted, because any part of it may be a password.
    """
    try:
        parsed = make_url(url.reveal())
    except (ArgumentError, ValueError, TypeError, AttributeError):
        raise ValueError(f"url must be that of a database, such as {EXAMPLES}") from None
    kind = parsed.get_backend_name()
    if kind not in kinds:
        raise ValueError(f"url must be like {EXAMPLES}, got one of {kind!r}")
    if kind == "sqlite" and _in_memory(parsed):
        raise ValueError(
            f"url must name a file, as in {EXAMPLES}, got {url!r}: "
            "for a store in memory use MemoryAlertStore"
        )
    return kind


def _in_memory(url: URL) -> bool:
    name = url.database or ":memory:"
    return ":memory:" in name or url.query.get("mode") == "memory"

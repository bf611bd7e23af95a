"""What is read of a request's headers."""

from __future__ import annotations

import re

from starlette.types import Scope

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


def header_name(name: str) -> str:
    """`name` in lower case.

    Raises:
        ValueError: `name` cannot be a header's.
    """
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ValueError(
            f"header name must be letters, digits and dashes such as 'x-api-key' "
            f"(a token, RFC 9110, 5.6.2), got {name!r}"
        )
    return name.lower()


def header_lines(scope: Scope, name: str) -> list[bytes]:
    """The values of every line of the header `name`, which is in lower case."""
    wanted, size = name.encode(), len(name)
    return [
        value
        for found, value in scope.get("headers", ())
        if len(found) == size and found.lower() == wanted
    ]

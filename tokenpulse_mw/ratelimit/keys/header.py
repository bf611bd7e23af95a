"""The key of a limit by a header, such as an API key."""

from __future__ import annotations

import re
from collections.abc import Hashable
from hashlib import blake2b

from starlette.types import Scope

from ..callables import KeyFunction, factory

_WITH_SCHEME = ("authorization", "proxy-authorization")  # whose case is free: RFC 9110, 11.1


_SEVERAL = "several"


@factory
def header(name: str) -> KeyFunction:
    """Key by a request header, such as an API key; requests without it are not limited.

    The value is kept as a hash, so that a secret does not stay in memory. Limit by address too
    where clients can choose the value freely: each new value is a new key. How a value is spelled
    makes no other key: neither blanks nor the case of an authorization's scheme count, and all
    requests that have the header more than once share one key.

    Raises:
        ValueError: `name` cannot be a header's.
    """
    wanted = header_name(name)
    salt = wanted.encode()[:64]
    has_scheme = wanted in _WITH_SCHEME

    def key(scope: Scope) -> Hashable | None:
        lines = header_values(scope, wanted)
        if len(lines) != 1:  # of several, nobody can tell which the application will take
            return _SEVERAL if lines else None
        value = b" ".join(lines[0].split())
        if has_scheme:
            scheme, blank, rest = value.partition(b" ")
            value = scheme.lower() + blank + rest
        return blake2b(value, digest_size=16, key=salt).digest()

    return key


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


def header_values(scope: Scope, name: str) -> list[bytes]:
    """The values of every line of the header `name`, which is in lower case."""
    wanted, size = name.encode(), len(name)
    return [
        value
        for found, value in scope.get("headers", ())
        if len(found) == size and found.lower() == wanted
    ]

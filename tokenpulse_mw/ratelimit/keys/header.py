"""Keys by a header, such as an API key."""

from __future__ import annotations

import re
from collections.abc import Hashable
from hashlib import blake2b

from starlette.types import Scope

from ...exchange import request_headers
from ..callables import KeyFunction, factory
from ..key_kinds import secret_kind, with_kind

_WITH_SCHEME = ("authorization", "proxy-authorization")  # case-insensitive: RFC 9110, 11.1
_SEVERAL = "several"  # key of requests that repeat the header
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


@factory
def header(name: str) -> KeyFunction:
    """Return a key function for a request header; requests without the header are not limited.

    The key is a hash of the value, so that a secret does not stay in memory. If clients can choose
    the value freely, limit by address too: every new value is a new key. Whitespace and the case
    of an authorization scheme are ignored. All requests that repeat the header share one key.

    Raises:
        ValueError: `name` is not a valid header name.
    """
    lower_name = header_name(name)
    salt = lower_name.encode()[:64]
    has_scheme = lower_name in _WITH_SCHEME

    def key(scope: Scope) -> Hashable | None:
        lines = header_values(scope, lower_name)
        if len(lines) != 1:  # it is unknown which of several values the application uses
            return _SEVERAL if lines else None
        value = b" ".join(lines[0].split())
        if has_scheme:
            scheme, blank, rest = value.partition(b" ")
            value = scheme.lower() + blank + rest
        return blake2b(value, digest_size=16, key=salt).digest()

    return with_kind(key, secret_kind(f"header {lower_name}"))


def header_name(name: str) -> str:
    """Return `name` in lower case.

    Raises:
        ValueError: `name` is not a valid header name.
    """
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ValueError(
            f"header name must be letters, digits and dashes such as 'x-api-key' "
            f"(a token, RFC 9110, 5.6.2), got {name!r}"
        )
    return name.lower()


def header_values(scope: Scope, name: str) -> list[bytes]:
    """Return the values of all lines of the header `name`, which is in lower case."""
    expected, size = name.encode(), len(name)
    return [
        value
        for field, value in request_headers(scope)
        if len(field) == size and field.lower() == expected
    ]

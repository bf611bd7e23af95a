"""The key of a limit by a header, such as an API key."""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b

from starlette.types import Scope

from ..functions import KeyFunction, makes_functions
from .fields import header_lines, header_name

_WITH_SCHEME = ("authorization", "proxy-authorization")  # whose case is free: RFC 9110, 11.1
_SEVERAL = "several"


@makes_functions
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
        lines = header_lines(scope, wanted)
        if len(lines) != 1:  # of several, nobody can tell which the application will take
            return _SEVERAL if lines else None
        value = b" ".join(lines[0].split())
        if has_scheme:
            scheme, blank, rest = value.partition(b" ")
            value = scheme.lower() + blank + rest
        return blake2b(value, digest_size=16, key=salt).digest()

    return key

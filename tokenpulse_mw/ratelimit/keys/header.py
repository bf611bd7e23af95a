"""The key of a limit by a header, such as an API key."""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b

from starlette.types import Scope

from ..functions import KeyFunction
from .fields import header_lines, header_name


def header(name: str) -> KeyFunction:
    """Key by a request header, such as an API key; requests without it are not limited.

    The value is kept as a hash, so that a secret does not stay in memory. Limit by address too
    where clients can choose the value freely: each new value is a new key.

    Raises:
        ValueError: `name` cannot be a header's.
    """
    wanted = header_name(name)
    salt = wanted.encode()[:64]

    def key(scope: Scope) -> Hashable | None:
        lines = header_lines(scope, wanted)
        return blake2b(lines[0], digest_size=16, key=salt).digest() if lines else None

    return key

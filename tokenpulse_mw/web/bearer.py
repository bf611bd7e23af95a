"""Who may read what is not for everyone."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest

from starlette.requests import Request


def bearer(token: str) -> Callable[[Request], bool]:
    """A guard that lets through requests with `Authorization: Bearer <token>` (RFC 6750).

    Tokens are compared in constant time.

    Raises:
        ValueError: `token` is empty or has white space or control characters in it, so that no
            header could carry it.
    """
    if not token or not token.isprintable() or any(map(str.isspace, token)):
        raise ValueError(
            "a bearer token must be at least one character, none of them white space; "
            f"got one of {len(token)} characters"
        )
    expected = token.encode()

    def authorize(request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        token = given.lstrip(" ").encode("latin-1")  # as many as RFC 9110 allows
        return scheme.lower() == "bearer" and compare_digest(token, expected)

    return authorize

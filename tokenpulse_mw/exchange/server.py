"""What ASGI servers do beside passing messages on."""

from __future__ import annotations

from starlette.types import Scope

CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left before the answer's head

# With these extensions the server sends a file as the whole body.
SENT_BY_SERVER = ("http.response.pathsend", "http.response.zerocopysend")

_RAISES_FROM = (2, 4)  # https://asgi.readthedocs.io/en/latest/specs/www.html#version-history


def tells_by_raising(scope: Scope) -> bool:
    """Whether the server may say by an OSError from `send` that the client has left."""
    version = scope.get("asgi", {}).get("spec_version", "2.0")
    try:
        return tuple(map(int, version.split("."))) >= _RAISES_FROM
    except ValueError:
        return True

"""Properties of an ASGI scope: path in the application, and features of the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from starlette.types import Scope

CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left before the headers were sent
# With these extensions the server sends a file as the whole body.
FILE_MESSAGES = ("http.response.pathsend", "http.response.zerocopysend")
MAX_TEXT_CHARS = 256

# https://asgi.readthedocs.io/en/latest/specs/www.html#version-history
_RAISING_SPEC_VERSION = (2, 4)


def request_headers(scope: Scope) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers of the request.

    ASGI allows any iterable. One that can be read only once is replaced, so that the application
    can read it too.
    """
    headers: Sequence[tuple[bytes, bytes]] = scope.get("headers", ())
    if type(headers) is not list and type(headers) is not tuple:
        headers = scope["headers"] = list(headers)
    return headers


def app_path(scope: Scope) -> str:
    """Return the path without the prefix that a server, a proxy or a mount added."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    return without_root(path, root) if root else path


def without_root(path: str, root: str) -> str:
    """Return `path` without the prefix `root`, which only some servers keep in it."""
    return path[len(root) :] if path.startswith(root + "/") else path


def truncate_with_hash(text: str) -> str:
    """Return `text`, or its beginning and a hash if it is too long.

    This bounds text that a client chooses. A truncated text is longer than any other, so the two
    cannot be equal.
    """
    if len(text) <= MAX_TEXT_CHARS:
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{text[:MAX_TEXT_CHARS]}~{digest.hexdigest()}"


def send_may_raise(scope: Scope) -> bool:
    """Return True if the server may raise OSError from `send` when the client has left."""
    return _version_may_raise(scope.get("asgi", {}).get("spec_version", "2.0"))


@lru_cache(maxsize=16)
def _version_may_raise(version: str) -> bool:
    try:
        return tuple(map(int, version.split("."))) >= _RAISING_SPEC_VERSION
    except ValueError:
        return True

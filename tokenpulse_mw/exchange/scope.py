"""The path as the application's own routes know it."""

from __future__ import annotations

from hashlib import blake2b

from starlette.types import Scope


def app_path(scope: Scope) -> str:
    """The path without what a server, a proxy or a mount has put before this application."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    return without_root(path, root) if root else path


def without_root(path: str, root: str) -> str:
    """`path` without the prefix `root`; servers differ in whether they leave it there."""
    return path[len(root) :] if path.startswith(root + "/") else path


MAX_TEXT_CHARS = 256  # characters


def truncate_with_hash(text: str) -> str:
    """`text` if it is short, else its beginning and a hash: its length must not be up to a client.

    What is shortened is longer than all that is not, so no short text can be taken for it.
    """
    if len(text) <= MAX_TEXT_CHARS:
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{text[:MAX_TEXT_CHARS]}~{digest.hexdigest()}"


CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left before the answer's head


# With these extensions the server sends a file as the whole body.
FILE_MESSAGES = ("http.response.pathsend", "http.response.zerocopysend")


_RAISING_SPEC_VERSION = (
    2,
    4,
)  # https://asgi.readthedocs.io/en/latest/specs/www.html#version-history


def send_may_raise(scope: Scope) -> bool:
    """Whether the server may say by an OSError from `send` that the client has left."""
    version = scope.get("asgi", {}).get("spec_version", "2.0")
    try:
        return tuple(map(int, version.split("."))) >= _RAISING_SPEC_VERSION
    except ValueError:
        return True

"""The path as the application's own routes know it."""

from __future__ import annotations

from starlette.types import Scope


def path_in_app(scope: Scope) -> str:
    """The path without what a server, a proxy or a mount has put before this application."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    return without_root(path, root) if root else path


def without_root(path: str, root: str) -> str:
    """`path` without the prefix `root`; servers differ in whether they leave it there."""
    return path[len(root) :] if path.startswith(root + "/") else path

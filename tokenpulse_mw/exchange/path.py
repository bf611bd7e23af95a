"""The path as the application's own routes know it."""

from __future__ import annotations

from starlette.types import Scope


def path_in_app(scope: Scope) -> str:
    """The path without the prefix that a server or a proxy has put before the application."""
    path: str = scope["path"]
    # A mount adds itself to root_path and keeps the original under app_root_path.
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path

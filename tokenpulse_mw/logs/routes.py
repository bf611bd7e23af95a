"""Endpoint of the settings that can be changed at run time: the log level."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from ..exchange import drop_exchange
from ..web.auth import Authorize, Guard, Right
from ..web.body import read_body
from ..web.endpoint import method_not_allowed
from ..web.problems import ProblemError, invalid, problem_response
from ..web.route import OwnRoute
from ..web.text import single_line
from .levels import LEVELS, check_level, log_level, set_log_level

logger = logging.getLogger("tokenpulse_mw.settings")

_PATH = "/admin/settings"
_MAX_AUTHOR_CHARS = 100
_METHODS = ["GET", "HEAD", "PUT", "OPTIONS"]


class SettingsBody(Struct, forbid_unknown_fields=True):
    """New settings."""

    log_level: str


# Stores a level for all processes; the second argument is the author.
Keep = Callable[[str, str], Awaitable[object]]


def settings_routes(*, authorize: Authorize, keep: Keep | None = None) -> list[BaseRoute]:
    """Return the routes of `GET` and `PUT /admin/settings`: `{"log_level": "INFO"}`.

    A change applies to this process at once. It is logged with the name that `authorize` returns,
    or the client's address. Rejected requests get problem details (RFC 9457); unauthorized ones get
    401. Authorized requests are excluded from metrics and alert statistics.

    Args:
        authorize: Returns True, the name of the client, or a `Person` with rights if the request is
            authorized, as `bearer` does; may be async. A change needs the right "thresholds".
        keep: Async function of a new level and its author, called before the level applies, which
            stores it for other processes. An error that it raises is the response.

    Raises:
        ValueError: `authorize` is not callable.
    """
    respond = _Settings(Guard(authorize, of="settings_routes"), keep).respond
    # Every method, and with a slash too, so that a catch-all route does not send the token to a
    # vendor.
    return [
        OwnRoute(path, respond, name="settings", methods=_METHODS, for_all=True)
        for path in (_PATH, f"{_PATH}/")
    ]


class _Settings:
    """Endpoint of the settings."""

    def __init__(self, guard: Guard, keep: Keep | None) -> None:
        self._guard, self._keep = guard, keep

    async def respond(self, request: Request) -> Response:
        """Return the response to a request."""
        try:
            return await self._respond(request)
        except ProblemError as problem:
            return problem_response(problem)

    async def _respond(self, request: Request) -> Response:
        right: Right = "thresholds" if request.method == "PUT" else "read"
        name = (await self._guard.authorize(request, right)).name
        drop_exchange(request.scope)
        allow = {"allow": ", ".join(_METHODS)}
        if request.method not in _METHODS:
            raise method_not_allowed(_METHODS)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allow)
        if request.method == "PUT":
            body = await read_body(request, SettingsBody, optional=False)
            level = _level(body.log_level)
            author = single_line(name, _MAX_AUTHOR_CHARS) or _client(request)
            if self._keep is not None:
                await self._keep(level, author)
            change_level(level, author)
        return JSONResponse({"log_level": log_level()}, headers={"cache-control": "no-store"})


def _level(level: str) -> str:
    try:
        return check_level(level)
    except ValueError:
        raise invalid((("log_level",), f"must be one of {', '.join(LEVELS)}")) from None


def change_level(level: str, author: str) -> None:
    """Change the level, and log the change while the lower of both levels is set."""
    before = log_level()
    line = ("log level changed: from=%s to=%s by=%s", before, level, author)
    if LEVELS[level] > LEVELS[before]:
        logger.warning(*line)
        set_log_level(level)
    else:
        set_log_level(level)
        if level != before:
            logger.warning(*line)


def _client(request: Request) -> str:
    return "unknown" if request.client is None else request.client.host

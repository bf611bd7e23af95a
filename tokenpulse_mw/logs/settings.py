"""The settings that can be changed while the process runs: the log level."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from inspect import isawaitable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..exchange import drop_exchange
from .levels import LEVELS, log_level, set_log_level
from .settings_body import RefusedError, problem, wanted_settings

logger = logging.getLogger("tokenpulse_mw.settings")

Authorize = Callable[[Request], bool | Awaitable[bool]]

_PATH = "/admin/settings"
_METHODS = ["GET", "HEAD", "PUT", "OPTIONS"]


def settings_routes(*, authorize: Authorize) -> list[Route]:
    """`GET` and `PUT /admin/settings`: `{"log_level": "INFO"}`.

    A change holds at once, for this process, and is logged. What is refused is answered with
    problem details (RFC 9457); whoever is not let in gets 401. What is let in is left out of
    request metrics and alert statistics.

    Args:
        authorize: Says whether a request is let in, as a bearer guard does; it may be async.

    Raises:
        ValueError: `authorize` cannot be called: these settings are not for everyone.
    """
    if not callable(authorize):
        raise ValueError(
            "settings_routes needs authorize, a function of the request that says whether it is "
            f"let in, got {authorize!r}"
        )

    async def settings(request: Request) -> Response:
        allowed = authorize(request)
        if not (await allowed if isawaitable(allowed) else allowed):
            return problem(RefusedError(401, "A token is needed.", {"www-authenticate": "Bearer"}))
        drop_exchange(request.scope)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": ", ".join(_METHODS)})
        return await _change(request) if request.method == "PUT" else _settings()

    return [Route(_PATH, settings, methods=_METHODS)]


async def _change(request: Request) -> Response:
    try:
        wanted = await wanted_settings(request)
    except RefusedError as refused:
        return problem(refused)
    _set(wanted["log_level"], request)
    return _settings()


def _set(level: str, request: Request) -> None:
    """Change the level, and log it while the more talkative of the two holds."""
    before = log_level()
    told = ("log level changed from %s to %s, asked by %s", before, level, _client(request))
    if LEVELS[level] > LEVELS[before]:
        logger.warning(*told)
        set_log_level(level)
    else:
        set_log_level(level)
        if level != before:
            logger.warning(*told)


def _client(request: Request) -> str:
    return "a client without an address" if request.client is None else request.client.host


def _settings() -> Response:
    return JSONResponse({"log_level": log_level()}, headers={"cache-control": "no-store"})

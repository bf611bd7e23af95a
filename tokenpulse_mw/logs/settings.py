"""The settings that can be changed while the process runs: the log level."""

from __future__ import annotations

import logging

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..bodies import read_body
from ..exchange import drop_exchange
from ..problems import RefusedError, as_response, invalid
from ..web import Authorize, Guard
from .levels import LEVELS, checked_level, log_level, set_log_level

logger = logging.getLogger("tokenpulse_mw.settings")

_PATH = "/admin/settings"
_METHODS = ["GET", "HEAD", "PUT", "OPTIONS"]


class SettingsBody(Struct, forbid_unknown_fields=True):
    """What the settings are to be."""

    log_level: str


def settings_routes(*, authorize: Authorize) -> list[Route]:
    """`GET` and `PUT /admin/settings`: `{"log_level": "INFO"}`.

    A change holds at once, for this process, and is logged, with the name that `authorize` gives
    or else the client's address. What is refused is answered with problem details (RFC 9457);
    whoever is not let in gets 401. What is let in is left out of request metrics and alert
    statistics.

    Args:
        authorize: Says whether a request is let in, as a bearer guard does, or gives the name of
            whoever asks; it may be async.

    Raises:
        ValueError: `authorize` cannot be called: these settings are not for everyone.
    """
    guard = Guard(authorize, of="settings_routes")

    async def settings(request: Request) -> Response:
        try:
            who = await guard.let_in(request)
            drop_exchange(request.scope)
            if request.method == "OPTIONS":
                return Response(status_code=204, headers={"allow": ", ".join(_METHODS)})
            if request.method == "PUT":
                wanted = await read_body(request, SettingsBody, optional=False)
                _set(_level(wanted.log_level), who or _client(request))
        except RefusedError as refused:
            return as_response(refused)
        return JSONResponse({"log_level": log_level()}, headers={"cache-control": "no-store"})

    # With a slash too, so that no token comes to a catch-all route, and from there to a vendor.
    return [Route(path, settings, methods=_METHODS) for path in (_PATH, f"{_PATH}/")]


def _level(level: str) -> str:
    try:
        return checked_level(level)
    except ValueError:
        raise invalid((("log_level",), f"must be one of {', '.join(LEVELS)}")) from None


def _set(level: str, who: str) -> None:
    """Change the level, and log it while the more talkative of the two holds."""
    before = log_level()
    told = ("log level changed from %s to %s, asked by %s", before, level, who)
    if LEVELS[level] > LEVELS[before]:
        logger.warning(*told)
        set_log_level(level)
    else:
        set_log_level(level)
        if level != before:
            logger.warning(*told)


def _client(request: Request) -> str:
    return "a client without an address" if request.client is None else request.client.host

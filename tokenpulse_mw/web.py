"""Who may read and change what is not for everyone."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from inspect import isawaitable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from .outages import Outage
from .problems import RefusedError

logger = logging.getLogger("tokenpulse_mw.web")

Allowed = bool | str | None
Authorize = Callable[[Request], Allowed | Awaitable[Allowed]]


class Guard:
    """Lets in whom `authorize` lets in: with True, or with a name.

    Args:
        authorize: Says of a request whether it is let in; it may be async.
        of: What is guarded, for the error.

    Raises:
        ValueError: `authorize` cannot be called.
    """

    def __init__(self, authorize: Authorize, *, of: str) -> None:
        if not callable(authorize):
            raise ValueError(
                f"{of} needs authorize, a function of the request that gives True or the name of "
                "whoever is let in, such as bearer(token) of tokenpulse_mw.web, "
                f"got {_kind(authorize)}"
            )
        self._authorize = authorize
        self._outage = Outage(logger, level=logging.ERROR)

    async def let_in(self, request: Request) -> str:
        """Who asks; empty where only that they may is known.

        Raises:
            RefusedError: They may not, or that cannot be told.
            HTTPException: What `authorize` itself has raised.
        """
        try:
            allowed = self._authorize(request)
            if isawaitable(allowed):
                allowed = await allowed
        except HTTPException:
            raise  # it refuses in its own words
        except Exception as error:  # noqa: BLE001 - the request must get an answer
            # Any client can cause a call, so not each failure gets a traceback in the log.
            self._outage.failed("authorize failed: nobody is let in", error=error)
            raise RefusedError(403, "It cannot be told now who may do this.") from None
        if isinstance(allowed, bool | str | None):
            self._outage.recovered("authorize works again")
        else:
            self._outage.failed("authorize must give True, a name or False, got %r", type(allowed))
        if allowed is True:
            return ""
        if isinstance(allowed, str) and allowed:
            return allowed
        raise RefusedError(401, "This is not for everyone.", headers={"www-authenticate": "Bearer"})


def bearer(token: str) -> Callable[[Request], bool]:
    """A guard that lets through requests with `Authorization: Bearer <token>` (RFC 6750).

    Tokens are compared in constant time.

    Raises:
        ValueError: `token` is no text, is empty, or has white space or control characters in it,
            so that no header could carry it.
    """
    if not isinstance(token, str):
        raise ValueError(
            f"a bearer token must be a text, got {_kind(token)}; if it comes from a variable of "
            "the environment, see that this is set"
        )
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


def _kind(value: object) -> str:
    """What came instead, without its value: that may be a secret."""
    return f"a value of type {type(value).__name__}"

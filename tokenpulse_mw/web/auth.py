"""Guards of endpoints: authorization, and rejection of cross-site changes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from inspect import isawaitable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..outages import Outage
from ..secret import Secret, hide, hide_arguments
from .problems import ProblemError

logger = logging.getLogger("tokenpulse_mw.web")


Allowed = bool | str | None
Authorize = Callable[[Request], Allowed | Awaitable[Allowed]]
# Returns the id of the tenant that sent a request, or None if it is not a tenant.
TenantOf = Callable[[Request], str | Awaitable[str | None] | None]

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OWN_SITE = {"same-origin", "none"}  # "none": typed by the user, or opened from a bookmark


class Guard:
    """Admit requests that `authorize` accepts and that no other web site has sent.

    A browser adds cookies, and the credentials for a proxy, to requests that another site makes
    it send. So a request that may change something is rejected if its `Sec-Fetch-Site` or
    `Origin` header names another origin. Requests without these headers do not come from a
    browser and are accepted.

    Args:
        authorize: Returns True or a name for a request that is admitted; it may be async.
        of: The guarded part, for the error message.
        name: Name of the function, for the log.
        returns: What the function must return, for the log.

    Raises:
        ValueError: `authorize` is not callable.
    """

    def __init__(
        self,
        authorize: Authorize,
        *,
        of: str,
        name: str = "authorize",
        returns: str = "True, a name or False",
    ) -> None:
        if not callable(authorize):
            raise ValueError(
                f"authorize of {of} must be a function of the request that returns True or the "
                f"name of the caller, got {_kind(authorize)}; use bearer(token) of tokenpulse_mw"
            )
        self._authorize, self._name, self._returns = authorize, name, returns
        self._outage = Outage(logger, level=logging.ERROR)

    async def authorize(self, request: Request) -> str:
        """Return the name of the caller; empty if `authorize` returned True.

        Raises:
            ProblemError: The request is cross-site, is not authorized, or `authorize` failed.
            HTTPException: Raised by `authorize`.
        """
        if request.method not in _SAFE_METHODS and _is_cross_site(request.headers):
            raise ProblemError(
                403,
                "Cross-site request rejected: send it from a page of this origin, or from a "
                "program that sends neither Sec-Fetch-Site nor Origin.",
            )
        try:
            allowed = self._authorize(request)
            if isawaitable(allowed):
                allowed = await allowed
        except HTTPException:
            raise  # the error contains the response
        except Exception as error:  # noqa: BLE001 - the request needs a response
            # Any client can cause this, so an outage limits the tracebacks in the log.
            self._outage.failed("%s failed: requests are rejected", self._name, error=error)
            raise ProblemError(403, "Authorization failed: try again later.") from None
        if isinstance(allowed, bool | str | None):
            self._outage.recovered("%s recovered", self._name)
        else:
            self._outage.failed(
                "%s must return %s, got %r", self._name, self._returns, type(allowed)
            )
        if allowed is True:
            return ""
        if isinstance(allowed, str) and allowed:
            return allowed
        raise ProblemError(
            401,
            "Authentication required: send a valid bearer token.",
            headers={"www-authenticate": "Bearer"},
        )


def _is_cross_site(headers: Headers) -> bool:
    """Return True if a browser sent the request for a page of another origin.

    `Sec-Fetch-Site` is used if it is present. Browsers omit it over plain HTTP, so then the host
    and port of `Origin` must be those of `Host`. The scheme is not compared, because a proxy may
    terminate TLS.
    """
    sites = headers.getlist("sec-fetch-site")
    if sites:
        return not _OWN_SITE.issuperset(sites)
    host = headers.get("host", "").lower()
    return any(
        origin.lower().partition("://")[2] != host or not host
        for origin in headers.getlist("origin")
    )


@hide_arguments
def bearer(token: str | Secret[str]) -> Callable[[Request], bool]:
    """Return a guard that accepts requests with `Authorization: Bearer <token>` (RFC 6750).

    Tokens are compared in constant time.

    Raises:
        ValueError: `token` is not a string, is empty, or contains white space or control
            characters, which a header cannot carry.
    """
    token = hide(token).reveal()
    if not isinstance(token, str):
        raise ValueError(
            f"token must be a string, got {_kind(token)}; if it comes from an environment "
            "variable, set that variable"
        )
    if not token or not token.isprintable() or any(map(str.isspace, token)):
        raise ValueError(
            "token must be one or more printable characters without white space, "
            f"got {len(token)} characters"
        )
    expected = Secret(token.encode())

    def authorize(request: Request) -> bool:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        token = credentials.lstrip(" ").encode("latin-1")  # RFC 9110 allows several spaces
        return scheme.lower() == "bearer" and compare_digest(token, expected.reveal())

    return authorize


def _kind(value: object) -> str:
    """Return the type of `value` without the value, which may be secret."""
    return f"a value of type {type(value).__name__}"

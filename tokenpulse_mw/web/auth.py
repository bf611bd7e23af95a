"""Guards of endpoints: authorization, rights, and rejection of cross-site changes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from hmac import compare_digest
from http.client import responses
from inspect import isawaitable
from typing import Literal, get_args

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..outages import Outage
from ..secret import Secret, hide, hide_arguments
from .problems import ProblemError
from .text import single_line

logger = logging.getLogger("tokenpulse_mw.web")

_MAX_HEADER_CHARS = 1000
_OF_CONTENT = ("content-length", "content-type")  # of another body than the problem

Right = Literal["read", "ack", "limits", "thresholds"]

_ALL_RIGHTS: tuple[Right, ...] = get_args(Right)
RIGHTS = frozenset(_ALL_RIGHTS)


@dataclass(frozen=True, slots=True)
class Person:
    """Caller of guarded endpoints, as `authorize` may return it.

    Args:
        name: Name, which is stored with the changes of the caller.
        can: Rights: "read"; "ack" (acknowledgements and silences); "limits" (changes of limits and
            their keys); "thresholds" (changes of thresholds and of the log level, test alerts).
            All rights by default.

    Raises:
        ValueError: `name` is not text or is empty, or `can` contains an unknown right.
    """

    name: str
    can: frozenset[Right]

    def __init__(self, name: str, can: Iterable[Right] = _ALL_RIGHTS) -> None:
        # An empty name, such as that of a missing header, must not admit the request.
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"name must be text that is not empty, got {name!r}")
        rights = () if isinstance(can, str) or not isinstance(can, Iterable) else tuple(can)
        unknown = [right for right in rights if right not in _ALL_RIGHTS]
        if unknown or (can and not rights):
            raise ValueError(f"can must be a set of {', '.join(_ALL_RIGHTS)}, got {can!r}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "can", frozenset(rights))


def _unnamed() -> Person:
    """Return the caller for which `authorize` has returned True."""
    person = Person("unnamed")
    object.__setattr__(person, "name", "")
    return person


_UNNAMED = _unnamed()

Allowed = bool | str | Person | None
Authorize = Callable[[Request], Allowed | Awaitable[Allowed]]
# Returns the id of the tenant that sent a request, or None if it is not a tenant.
TenantOf = Callable[[Request], str | Awaitable[str | None] | None]

_CHALLENGE = {"www-authenticate": "Bearer"}  # of each 401 (RFC 9110)
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_MAX_NAME_CHARS = 100  # in an error
_OWN_SITE = {"same-origin", "none"}  # "none": typed by the user, or opened from a bookmark


class Guard:
    """Admit requests that `authorize` accepts and that no other web site has sent.

    A browser adds cookies, and the credentials for a proxy, to requests that another site makes
    it send. So a request that may change something is rejected if its `Sec-Fetch-Site` or
    `Origin` header names another origin. Requests without these headers do not come from a
    browser and are accepted.

    Args:
        authorize: Returns True, a name or a `Person` for a request that is admitted; it may be
            async. True and a name have all rights.
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
        returns: str = "True, a name, a Person or False",
    ) -> None:
        if not callable(authorize):
            raise ValueError(
                f"authorize of {of} must be a function of the request that returns True or the "
                f"name of the caller, got {_kind(authorize)}; use bearer(token) of tokenpulse_mw"
            )
        self._authorize, self._name, self._returns = authorize, name, returns
        self._outage = Outage(logger, level=logging.ERROR)

    async def authorize(self, request: Request, right: Right = "read") -> Person:
        """Return the caller, whose name is empty if `authorize` returned True.

        Args:
            request: The request.
            right: Right that the request needs.

        Raises:
            ProblemError: The request is cross-site, is not authorized, lacks the right, has a
                wrong token after too many others, or `authorize` failed.
        """
        if request.method not in _SAFE_METHODS and _is_cross_site(request.headers):
            raise ProblemError(
                403,
                "Cross-site request rejected: send it from a page of this origin, or from a "
                "program that sends neither Sec-Fetch-Site nor Origin.",
            )
        try:
            allowed = await call(self._authorize, request)
        except ProblemError:
            raise
        except Exception as error:  # noqa: BLE001 - the request needs a response
            # Any client can cause this, so an outage limits the tracebacks in the log.
            self._outage.failed("%s failed: requests are rejected", self._name, error=error)
            raise ProblemError(503, "Authorization failed: try again later.") from None
        if isinstance(allowed, bool | str | Person | None):
            self._outage.recovered("%s recovered", self._name)
        else:
            self._outage.failed(
                "%s must return %s, got %r", self._name, self._returns, type(allowed)
            )
        person = person_of(allowed)
        if person is None:
            raise ProblemError(
                401,
                "Authentication required: send a valid bearer token.",
                headers=_CHALLENGE,
            )
        if right not in person.can:
            name = single_line(person.name, _MAX_NAME_CHARS)
            raise ProblemError(
                403,
                f"Forbidden: this request needs the right `{right}`; "
                f"{name or 'the caller'} has {_listed(person.can)}.",
            )
        return person


async def call(authorize: Authorize, request: Request) -> object:
    """Return the result of `authorize` for a request.

    Raises:
        ProblemError: `authorize` raised an HTTPException with the status of an error. The response
            has its status, detail and headers.
        Exception: `authorize` failed.
    """
    try:
        allowed: object = authorize(request)
        return await allowed if isawaitable(allowed) else allowed
    except HTTPException as error:
        if error.status_code < 400:  # an error of the function
            raise
        # Not propagated: an application that is wrapped has no handler for it.
        raise _problem_of(error) from None


def _problem_of(error: HTTPException) -> ProblemError:
    """Return the problem with the status, the detail and the headers of `error`."""
    detail: object = error.detail  # FastAPI allows any JSON
    headers = dict(_CHALLENGE) if error.status_code == 401 else {}
    for name, value in (error.headers or {}).items():
        if name.isascii() and name.lower() not in _OF_CONTENT:
            line = single_line(str(value), _MAX_HEADER_CHARS)
            headers[name.lower()] = line.encode("latin-1", "replace").decode("latin-1")
    text = detail if isinstance(detail, str) else responses.get(error.status_code, "Error")
    return ProblemError(error.status_code, text, headers=headers)


def person_of(allowed: object) -> Person | None:
    """Return the caller that a result of `authorize` names, or None if it admits no request."""
    if isinstance(allowed, Person):
        return allowed
    if allowed is True:
        return _UNNAMED
    return Person(allowed) if isinstance(allowed, str) and allowed.strip() else None


def _listed(rights: frozenset[Right]) -> str:
    return ", ".join(f"`{right}`" for right in _ALL_RIGHTS if right in rights) or "no right"


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

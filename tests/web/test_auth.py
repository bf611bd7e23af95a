"""Guards of endpoints: bearer tokens, cross-site requests and errors of authorize."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tokenpulse_mw.web.auth import RIGHTS, Guard, Person, bearer
from tokenpulse_mw.web.problems import ProblemError, problem_response

from ..support.asgi import http_scope


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [
        (b"Bearer s3cret", True),
        (b"bearer s3cret", True),
        (b"Bearer   s3cret", True),
        (b"Bearer s3cret ", False),
        (b"Bearer s3cre", False),
        (b"Bearer \xa0", False),
        (b"Basic s3cret", False),
        (b"s3cret", False),
        (b"", False),
    ],
)
def test_bearer_accepts_only_the_exact_token(authorization: bytes, allowed: bool) -> None:
    """The scheme is required in any case; the token must be equal."""
    request = Request(http_scope(headers=[(b"authorization", authorization)]))

    assert bearer("s3cret")(request) is allowed


def test_bearer_rejects_a_request_without_a_header() -> None:
    """A request without the Authorization header is rejected."""
    assert not bearer("s3cret")(Request(http_scope()))


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nend", "\xa0"])
def test_bearer_token_with_white_space_raises(token: str) -> None:
    """An empty token and one with white space raise; the error does not contain the token."""
    with pytest.raises(ValueError, match="token must be one or more printable") as caught:
        bearer(token)
    assert not token or repr(token) not in str(caught.value)


@pytest.mark.parametrize(("token", "kind"), [(None, "NoneType"), (80841, "int"), (b"7", "bytes")])
def test_bearer_token_of_other_type_raises(token: Any, kind: str) -> None:
    """The error contains the type of an invalid token, but not its value."""
    with pytest.raises(
        ValueError, match=f"token must be a string, got a value of type {kind}; "
    ) as caught:
        bearer(token)
    assert f"{token}" not in str(caught.value).replace("NoneType", "")


def test_guard_with_plain_token_raises_without_token() -> None:
    """The error for a plain token names `bearer` and does not contain the token."""
    with pytest.raises(
        ValueError, match=r"^authorize of Endpoint must be .* bearer\(token\)"
    ) as caught:
        Guard("s3cret", of="Endpoint")  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)


Headers = list[tuple[bytes, bytes]]

OWN_SITE: list[Headers] = [
    [],
    [(b"sec-fetch-site", b"same-origin")],
    [(b"sec-fetch-site", b"none")],
    [(b"sec-fetch-site", b"same-origin"), (b"origin", b"https://behind-a-proxy.example")],
    [(b"host", b"gw.example"), (b"origin", b"https://gw.example")],
    [(b"host", b"gw.example"), (b"origin", b"http://gw.example")],
    [(b"host", b"GW.example:8000"), (b"origin", b"http://gw.example:8000")],
    [(b"host", b"[::1]:8000"), (b"origin", b"http://[::1]:8000")],
]

OTHER_SITE: list[Headers] = [
    [(b"sec-fetch-site", b"cross-site")],
    [(b"sec-fetch-site", b"same-site")],
    [(b"sec-fetch-site", b"")],
    [(b"sec-fetch-site", b"Same-Origin ")],
    [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")],
    [
        (b"sec-fetch-site", b"cross-site"),
        (b"host", b"gw.example"),
        (b"origin", b"https://gw.example"),
    ],
    [(b"host", b"gw.example"), (b"origin", b"https://evil.example")],
    [(b"host", b"gw.example"), (b"origin", b"https://gw.example:8000")],
    [(b"host", b"gw.example"), (b"origin", b"https://gw.example.evil.example")],
    [(b"host", b"gw.example"), (b"origin", b"https://gw.example/")],
    [(b"host", b"gw.example"), (b"origin", b"gw.example")],
    [(b"host", b"gw.example"), (b"origin", b"null")],
    [(b"host", b"gw.example"), (b"origin", b"")],
    [(b"host", b"gw.example"), (b"origin", b"https://gw.example"), (b"origin", b"null")],
    [(b"origin", b"https://gw.example")],
    [(b"origin", b"null")],
]

CHANGING = ["POST", "PUT", "PATCH", "DELETE", "QUERY", "BREW", "post"]


async def is_accepted(method: str, headers: Headers) -> bool:
    """Return True if a guard that authorizes every request accepts this one."""
    guard = Guard(lambda request: True, of="Endpoint")
    try:
        await guard.authorize(Request(http_scope(method=method, headers=headers)))
    except ProblemError as error:
        return error.status != 403
    return True


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("headers", OWN_SITE, ids=str)
@pytest.mark.anyio
async def test_change_from_own_origin_or_a_program_is_accepted(
    headers: Headers, method: str
) -> None:
    """Programs send neither header, and a browser names the own origin."""
    assert await is_accepted(method, headers)


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("headers", OTHER_SITE, ids=str)
@pytest.mark.anyio
async def test_change_from_another_origin_is_rejected(headers: Headers, method: str) -> None:
    """Another site must not use the credentials that a browser adds."""
    assert not await is_accepted(method, headers)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("headers", OTHER_SITE, ids=str)
@pytest.mark.anyio
async def test_safe_method_from_another_origin_is_accepted(headers: Headers, method: str) -> None:
    """A safe method changes nothing, and the browser hides its response from the other site."""
    assert await is_accepted(method, headers)


@pytest.mark.anyio
async def test_cross_site_request_is_rejected_before_authorize_is_called() -> None:
    """Another site cannot cause the cost of an authorization."""
    calls: list[Request] = []

    def authorize(request: Request) -> bool:
        calls.append(request)
        return True

    guard = Guard(authorize, of="Endpoint")
    await guard.authorize(Request(http_scope(method="POST")))
    headers = [(b"sec-fetch-site", b"cross-site")]

    with pytest.raises(ProblemError, match="Cross-site request rejected"):
        await guard.authorize(Request(http_scope(method="POST", headers=headers)))

    assert len(calls) == 1


@pytest.mark.anyio
async def test_authorize_that_raises_is_logged_as_an_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests of any client cannot fill the log with tracebacks."""
    caplog.set_level(logging.INFO)
    results: list[Any] = [True, 7, OSError("no directory"), OSError("no directory")]

    def authorize(request: Request) -> Any:
        result = results.pop()
        if isinstance(result, OSError):
            raise result
        return result

    guard = Guard(authorize, of="Endpoint")
    for status in (503, 503, 401):
        with pytest.raises(ProblemError) as caught:
            await guard.authorize(Request(http_scope()))
        assert caught.value.status == status
    assert (await guard.authorize(Request(http_scope()))).name == ""

    assert caplog.messages == [
        "authorize failed: requests are rejected",
        "authorize recovered (seconds=0 failures=3)",
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "status", "title", "headers"),
    [
        (HTTPException(401, "no"), 401, "Unauthorized", {"www-authenticate": "Bearer"}),
        (
            HTTPException(401, "no", {"WWW-Authenticate": "Basic"}),
            401,
            "Unauthorized",
            {"www-authenticate": "Basic"},
        ),
        (HTTPException(403, "no"), 403, "Forbidden", {}),
        (
            HTTPException(503, "no", {"Retry-After": "9"}),
            503,
            "Service Unavailable",
            {"retry-after": "9"},
        ),
        (HTTPException(499, "no"), 499, "Error", {}),
    ],
)
async def test_http_exception_of_authorize_is_the_response(
    error: HTTPException,
    status: int,
    title: str,
    headers: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its status, detail and headers are kept, also of a status without a name; it is no outage."""

    def authorize(request: Request) -> bool:
        raise error

    guard = Guard(authorize, of="Endpoint")
    with pytest.raises(ProblemError) as caught:
        await guard.authorize(Request(http_scope()))

    response = problem_response(caught.value)
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": "no",
    }
    assert caught.value.headers == headers
    assert not caplog.messages


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("result", "name", "can"),
    [
        (True, "", RIGHTS),
        ("ada", "ada", RIGHTS),
        (Person("ada"), "ada", RIGHTS),
        (Person("grace", can={"read", "ack"}), "grace", {"read", "ack"}),
    ],
)
async def test_guard_returns_the_name_and_the_rights_of_the_caller(
    result: Any, name: str, can: Any
) -> None:
    """True and a name have all rights, and a Person has its own."""
    person = await Guard(lambda request: result, of="Endpoint").authorize(Request(http_scope()))

    assert (person.name, person.can) == (name, can)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("can", "detail"),
    [
        (
            {"read", "ack"},
            "Forbidden: this request needs the right `limits`; ada l has `read`, `ack`.",
        ),
        ((), "Forbidden: this request needs the right `limits`; ada l has no right."),
    ],
)
async def test_request_without_the_right_is_forbidden(can: Any, detail: str) -> None:
    """The 403 names the right that is missing, and the rights of the caller."""
    guard = Guard(lambda request: Person("ada\nl\u202e", can=can), of="Endpoint")

    with pytest.raises(ProblemError) as caught:
        await guard.authorize(Request(http_scope()), "limits")

    assert (caught.value.status, caught.value.detail) == (403, detail)


@pytest.mark.anyio
async def test_hostile_name_of_a_forbidden_caller_is_sanitized() -> None:
    """A name, such as a claim of a JWT, may be long, and may have lone surrogates."""
    guard = Guard(lambda request: Person("\ud800" + "a" * 200, can=()), of="Endpoint")

    with pytest.raises(ProblemError) as caught:
        await guard.authorize(Request(http_scope()))

    body = bytes(problem_response(caught.value).body).decode()
    assert f"; ?{'a' * 96}... has no right." in body


@pytest.mark.parametrize("name", ["", " ", None, b"ada"])
def test_person_without_a_name_raises(name: Any) -> None:
    """The value of a missing header must not admit a request."""
    with pytest.raises(ValueError, match="name must be text that is not empty"):
        Person(name)


@pytest.mark.parametrize("can", [{"write"}, "read", 7, [["read"]]])
def test_person_with_unknown_rights_raises(can: Any) -> None:
    """The error lists the rights that exist."""
    with pytest.raises(ValueError, match="can must be a set of read, ack, limits, thresholds"):
        Person("ada", can=can)


def test_person_is_compared_by_value() -> None:
    """Two persons with the same name and rights are equal, and rights cannot be changed."""
    person = Person("ada", can=["read", "read"])

    assert person == Person("ada", can={"read"})
    with pytest.raises(AttributeError):
        person.can = RIGHTS  # type: ignore[misc]

"""Attribution of failed exchanges: whose fault a failure is."""

from __future__ import annotations

from typing import Any

import anthropic
import anyio
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, Policy, RateLimitMiddleware, annotate, keys
from tokenpulse_mw.exchange import FAULTS
from tokenpulse_mw.exchange.fault import fault_of

from ..support.apps import (
    WORDS,
    answering,
    event,
    gone,
    raising,
    raising_mid_stream,
    returning_at_disconnect,
    silent,
    streaming,
)
from ..support.asgi import drive, http_scope

VENDOR = httpx2.Request("POST", "https://vendor.example")
ERROR_EVENT = event(error={"message": "overloaded"})


async def fault(app: ASGIApp, **more: Any) -> str | None:
    """Return the fault of the exchange of a POST request."""
    seen: list[Exchange] = []
    middleware = ExchangeMiddleware(app, observers=[seen.append])
    await drive(middleware, http_scope("/chat", method="POST"), **more)
    (exchange,) = seen
    return exchange.fault


def raising_in_starlette(error: BaseException, cause: Exception | None = None) -> ASGIApp:
    """Return an application of Starlette whose endpoint raises `error` because of `cause`."""

    async def endpoint(request: Request) -> Response:
        if cause is None:
            raise error
        try:
            raise cause
        except type(cause):
            raise error  # noqa: B904 - as much code does, without `from`

    async def handle(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "upstream"}, status_code=502)

    return Starlette(
        routes=[Route("/chat", endpoint, methods=["POST"])],
        exception_handlers={LookupError: handle},
    )


def with_status(status: int) -> Exception:
    """Return the exception of an HTTP client for a response of the vendor with this status."""
    response = httpx2.Response(status, request=VENDOR)
    return httpx2.HTTPStatusError("bad", request=VENDOR, response=response)


def named(package: str, name: str, **attributes: object) -> Exception:
    """Return an exception of a package that is not installed here."""
    kind: type[Exception] = type(
        name, (Exception,), {"__module__": f"{package}.exceptions", **attributes}
    )
    return kind()


@pytest.mark.parametrize("status", [200, 204, 301, 304])
@pytest.mark.anyio
async def test_complete_response_below_400_has_no_fault(status: int) -> None:
    """A redirect is not a failure."""
    assert await fault(answering(status=status)) is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, "client"),
        (401, "client"),
        (403, "client"),
        (404, "client"),
        (413, "client"),
        (429, "provider"),
        (500, "provider"),
        (501, "gateway"),
        (502, "provider"),
        (503, "provider"),
        (504, "network"),
        (529, "provider"),
    ],
)
@pytest.mark.anyio
async def test_status_of_a_json_response_decides_without_an_exception(
    status: int, expected: str
) -> None:
    """Error responses of vendors are JSON, and a 504 says that there was none."""
    assert await fault(answering(status=status)) == expected


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.anyio
async def test_rejected_credential_is_the_fault_of_the_gateway(status: int) -> None:
    """With a credential, the vendor rejected the gateway's key and not that of the client."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, credential="prod-2")
        await answering(status=status)(scope, receive, send)

    assert await fault(app) == "gateway"


@pytest.mark.anyio
async def test_request_over_a_limit_is_a_matter_of_policy() -> None:
    """Only rejections by the limits of the gateway are `policy`."""
    seen: list[Exchange] = []
    policy = Policy("1/minute", key=keys.client_address())
    app = ExchangeMiddleware(
        RateLimitMiddleware(answering(), policies=[policy]), observers=[seen.append]
    )

    for _ in range(2):
        await drive(app, http_scope("/chat"))

    assert [exchange.fault for exchange in seen] == [None, "policy"]


@pytest.mark.parametrize(
    ("app", "more", "expected"),
    [
        (streaming(WORDS), {"on_send": gone}, "client"),
        (returning_at_disconnect, {}, "client"),
        (streaming([*WORDS, ERROR_EVENT]), {}, "provider"),
        (streaming([WORDS[0], ERROR_EVENT, WORDS[1]]), {"on_send": gone}, "provider"),
        (streaming(WORDS, ends=False), {}, "network"),
        (raising_mid_stream, {}, "gateway"),
        (raising, {}, "gateway"),
        (silent, {}, "gateway"),
        (answering(status=500, content_type=b"text/plain; charset=utf-8"), {}, "gateway"),
        (answering(status=502, content_type=b"text/plain"), {}, "provider"),
    ],
)
@pytest.mark.anyio
async def test_outcome_decides_whose_fault_a_broken_response_is(
    app: ASGIApp, more: dict[str, Any], expected: str
) -> None:
    """A client that leaves, an error of the model, and a cut connection differ."""
    assert await fault(app, **more) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("bug"), "gateway"),
        (FileNotFoundError("config"), "gateway"),
        (ConnectionResetError(), "network"),
        (TimeoutError(), "network"),
        (httpx2.ConnectError("refused"), "network"),
        (httpx2.ReadTimeout("slow"), "network"),
        (httpx2.RemoteProtocolError("peer closed"), "network"),
        (with_status(503), "provider"),
        (with_status(400), "provider"),
        (with_status(401), "gateway"),
        (openai.APIConnectionError(request=VENDOR), "network"),
        (openai.APITimeoutError(request=VENDOR), "network"),
        (openai.APIError("an error event", request=VENDOR, body={}), "provider"),
        (
            anthropic.APIStatusError(
                "an error event", response=httpx2.Response(200, request=VENDOR), body={}
            ),
            "provider",
        ),
        (named("aiohttp", "ClientConnectionError"), "network"),
        (named("aiohttp", "ClientResponseError", status=500), "provider"),
        (named("botocore", "HTTPClientError"), "network"),
        (
            named(
                "botocore",
                "ClientError",
                response={"ResponseMetadata": {"HTTPStatusCode": 403}},
            ),
            "gateway",
        ),
        (named("botocore", "ClientError", response={}), "gateway"),
        (named("shop", "ClientConnectionError"), "gateway"),
        (ExceptionGroup("tasks", [httpx2.ConnectError("refused")]), "network"),
    ],
)
@pytest.mark.parametrize("wrapping", [None, RuntimeError, LookupError])
@pytest.mark.anyio
async def test_exception_of_the_application_decides(
    error: Exception, expected: str, wrapping: type[Exception] | None
) -> None:
    """Exceptions are seen when they are raised through Starlette, as a cause, and in handlers."""
    app = raising_in_starlette(error)
    if wrapping is not None:
        app = raising_in_starlette(wrapping("upstream failed"), error)

    assert await fault(app) == expected


@pytest.mark.parametrize(
    ("status", "cause", "expected"),
    [
        (502, None, "provider"),
        (503, None, "provider"),
        (502, httpx2.ConnectError("refused"), "network"),
        (500, with_status(500), "provider"),
        (502, KeyError("config"), "gateway"),
        (404, httpx2.ConnectError("refused"), "client"),
    ],
)
@pytest.mark.anyio
async def test_cause_of_an_http_exception_decides(
    status: int, cause: Exception | None, expected: str
) -> None:
    """An `HTTPException` is a deliberate response, so only what it was raised for is a cause."""
    assert await fault(raising_in_starlette(HTTPException(status), cause)) == expected


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (answering(status=503), "provider"),
        (raising_in_starlette(HTTPException(503)), "provider"),
        (raising_in_starlette(httpx2.ConnectError("refused")), "network"),
    ],
)
@pytest.mark.anyio
async def test_exception_that_is_handled_before_the_request_is_no_evidence(
    app: ASGIApp, expected: str
) -> None:
    """A server may run in an `except` block, such as that of an optional import."""
    try:
        raise ImportError("uvloop")
    except ImportError:
        assert await fault(app) == expected


@pytest.mark.anyio
async def test_annotated_fault_overrides_what_the_response_shows() -> None:
    """The application may know better."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, fault="network")
        await answering(status=503)(scope, receive, send)

    assert await fault(app) == "network"


@pytest.mark.anyio
async def test_annotated_fault_of_a_success_is_ignored() -> None:
    """It was annotated for a failure that a retry has repaired."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, fault="network")
        await answering()(scope, receive, send)

    assert await fault(app) is None


@pytest.mark.anyio
async def test_unknown_annotated_fault_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The words are a closed set, because they are label values."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, fault="weather")  # type: ignore[arg-type]
        await answering(status=503)(scope, receive, send)

    assert await fault(app) == "provider"
    assert "fault must be one of client, policy, gateway, provider, network" in caplog.text


@pytest.mark.anyio
async def test_exception_that_cannot_be_examined_does_not_fail_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An attribute of a foreign exception may raise."""

    class HostileError(Exception):
        @property
        def response(self) -> object:
            raise RuntimeError("lazy")

    assert await fault(raising_in_starlette(HostileError())) is None
    assert "fault failed with RuntimeError" in caplog.text


@pytest.mark.anyio
async def test_cancelled_request_is_the_fault_of_the_client() -> None:
    """Servers cancel the application when the client has left."""
    seen: list[Exchange] = []

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0):
        await drive(ExchangeMiddleware(waiting, observers=[seen.append]))

    assert [exchange.fault for exchange in seen] == ["client"]


@given(
    status=st.integers(100, 599),
    outcome=st.sampled_from(["complete", "client_disconnect", "error", "truncated"]),
    limited=st.booleans(),
    is_text=st.booleans(),
    credential=st.sampled_from([None, "c1"]),
)
def test_fault_is_a_closed_word_exactly_for_failures(
    status: int, outcome: Any, limited: bool, is_text: bool, credential: str | None
) -> None:
    """Every failure has one fault, and a success has none."""
    exchange = Exchange(
        "POST", 0.0, status=status, outcome=outcome, limited=limited, credential=credential
    )

    found = fault_of(exchange, None, is_text=is_text)

    failed = limited or outcome != "complete" or status >= 400
    assert (found in FAULTS) if failed else (found is None)


def test_chain_of_causes_that_is_a_circle_ends() -> None:
    """At most ten exceptions are examined."""
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first

    assert fault_of(Exchange("POST", 0.0, status=500), first, is_text=False) == "gateway"

"""HTTP attempts of sinks, with real receivers that respond in all kinds of ways."""

from __future__ import annotations

import logging
import socket
import ssl
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import anyio
import httpx2
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.sinks import Rejected, RetryLater, SlackSink, WebhookSink
from tokenpulse_mw.alerts.sinks.http_client import HttpClient, check_response, parse_retry_after
from tokenpulse_mw.alerts.sinks.ssrf import Resolve

from ...support.receiver import (
    Receiver,
    Responder,
    respond_with,
    sending_endlessly,
    sending_nothing,
    sending_raw,
    sending_slowly,
)
from ...support.servers import free_port
from ...support.waiting import PATIENCE
from .events import event

pytestmark = pytest.mark.slow

SECRET_PATH = "/services/T0/B0/hunter2?key=hunter2"
NOW = 1_767_323_045.0  # Fri, 02 Jan 2026 03:04:05 GMT


def resolving_to(*addresses: str) -> tuple[Resolve, list[tuple[str, int]]]:
    """Return a function that resolves to `addresses`, and the list of its calls."""
    calls: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        calls.append((host, port))
        return list(addresses)

    return resolve, calls


async def error_of(attempt: Callable[[], Awaitable[None]]) -> Exception:
    """Return the error that `attempt` raises."""
    try:
        await attempt()
    except (RetryLater, Rejected) as error:
        return error
    raise AssertionError("the event was accepted")


@pytest.mark.anyio
async def test_accepted_event_is_sent_once() -> None:
    """An attempt sends one request to the path of the URL, with the headers of the sink."""
    with Receiver() as receiver:
        sink = WebhookSink(receiver.url + SECRET_PATH)
        await sink(event())
        await sink.aclose()

    (request,) = receiver.received
    assert request.path == SECRET_PATH
    assert request.headers["host"] == receiver.url.removeprefix("http://")
    assert request.headers["user-agent"] == "tokenpulse-mw"
    assert request.headers["content-type"] == "application/json"


@pytest.mark.anyio
async def test_attempts_share_a_connection_until_the_sink_is_closed() -> None:
    """A sink reuses its connection, and opens a new one after it was closed."""
    with Receiver(respond_with(200, b"ok")) as receiver:
        sink = WebhookSink(receiver.url)
        for _ in range(3):
            await sink(event())
        await sink.aclose()
        await sink(event())
        await sink.aclose()
        await sink.aclose()

    ports = [request.port for request in receiver.received]
    assert len(ports) == 4
    assert len(set(ports[:3])) == 1
    assert ports[3] != ports[0]


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (respond_with(500), RetryLater),
        (respond_with(404), Rejected),
        (sending_raw(b""), RetryLater),
        (sending_raw(b"what do you want?\r\n\r\n"), RetryLater),
        (sending_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), RetryLater),
        (sending_raw(b"HTTP/1.1 OK\r\n\r\n"), RetryLater),
        (sending_raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"), RetryLater),
        (sending_nothing, RetryLater),
        (sending_slowly, RetryLater),
    ],
    ids=["5xx", "4xx", "none", "garbage", "half", "no-status", "huge", "silent", "dripping"],
)
@pytest.mark.anyio
async def test_bad_response_is_an_error_with_the_origin_only(
    response: Responder, kind: type[Exception]
) -> None:
    """A bad response raises within the timeout, and the error shows only the origin."""
    with Receiver(response) as receiver:
        timeout = 0.3 if response in (sending_nothing, sending_slowly) else PATIENCE
        sink = WebhookSink(
            receiver.url + SECRET_PATH, timeout=timeout, headers={"x-key": "hunter2"}
        )
        with anyio.fail_after(PATIENCE):
            error = await error_of(lambda: sink(event()))
        await sink.aclose()

    assert type(error) is kind
    assert str(error).startswith(receiver.url)
    assert "hunter2" not in str(error)


@pytest.mark.anyio
async def test_endless_body_of_a_response_is_not_read() -> None:
    """The status decides, and an endless body costs neither memory nor time."""
    with Receiver(sending_endlessly) as receiver:
        sink = WebhookSink(receiver.url, timeout=PATIENCE)
        await sink(event())  # allocates what is allocated once
        tracemalloc.start()
        with anyio.fail_after(PATIENCE):
            await sink(event())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await sink.aclose()

    assert peak < 1_000_000


@pytest.mark.anyio
async def test_unreachable_receiver_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection and an unknown host raise RetryLater, without secrets of the URL."""

    def getaddrinfo(*arguments: object, **options: object) -> None:
        raise socket.gaierror("hunter2")

    for url in (f"http://127.0.0.1:{free_port()}", "http://[::1]:9", "http://unknown.invalid"):
        if url.endswith("invalid"):
            monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        sink = WebhookSink(url + SECRET_PATH, timeout=PATIENCE)
        error = await error_of(lambda sink=sink: sink(event()))  # type: ignore[misc]
        await sink.aclose()

        assert type(error) is RetryLater
        assert str(error).startswith(f"{url} request failed (")
        assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("status", "kind"), [(301, Rejected), (302, RetryLater), (307, RetryLater)]
)
@pytest.mark.anyio
async def test_redirect_is_not_followed(status: int, kind: type[Exception]) -> None:
    """A redirect is not followed, because it could lead into a private network."""
    with Receiver() as target, Receiver(respond_with(status, Location=target.url)) as receiver:
        sink = WebhookSink(receiver.url)
        error = await error_of(lambda: sink(event()))
        await sink.aclose()

    assert type(error) is kind
    assert target.received == []


@pytest.mark.anyio
async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests do not go through a proxy of the environment, which could read alerts."""
    with Receiver() as receiver, Receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        sink = WebhookSink(receiver.url)
        await sink(event())
        await sink.aclose()

    assert len(receiver.received) == 1
    assert proxy.received == []


@pytest.mark.anyio
async def test_cookies_of_a_response_are_ignored() -> None:
    """A cookie of a response is not sent with the next request."""
    with Receiver(respond_with(200, Set_Cookie="a=1")) as receiver:
        sink = WebhookSink(receiver.url)
        for _ in range(2):
            await sink(event())
        await sink.aclose()

    assert "cookie" not in receiver.received[1].headers


@pytest.mark.anyio
async def test_user_information_of_the_url_is_sent_as_basic_authentication() -> None:
    """User information is sent as Basic authentication, unless headers have Authorization."""
    with Receiver() as receiver:
        url = receiver.url.replace("//", "//user:p%40ss@")
        for headers in ({}, {"Authorization": "Bearer t"}):
            sink = SlackSink(url, headers=headers)
            await sink(event())
            await sink.aclose()

    assert [request.headers["authorization"] for request in receiver.received] == [
        "Basic dXNlcjpwQHNz",
        "Bearer t",
    ]


@pytest.mark.anyio
async def test_logs_do_not_show_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """The log has no secret at any level, with and without an error."""
    caplog.set_level(logging.DEBUG)
    with Receiver() as receiver:
        url = receiver.url.replace("//", "//hunter2:hunter2@") + SECRET_PATH
        sink = WebhookSink(url, headers={"x-key": "hunter2"}, secret="whsec_" + "hunter2A" * 5)
        await sink(event())
        receiver.respond = sending_raw(b"?")
        await error_of(lambda: sink(event()))
        await sink.aclose()

    assert len(receiver.received) == 2
    assert "hunter2" not in caplog.text


@pytest.mark.anyio
async def test_cancellation_by_the_caller_is_not_an_error() -> None:
    """An attempt that the caller cancels is cancelled, and raises no RetryLater."""
    with Receiver(sending_nothing) as receiver:
        sink = WebhookSink(receiver.url, timeout=PATIENCE)
        with anyio.move_on_after(0.2) as scope:
            await sink(event())
        await sink.aclose()

    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_connection_goes_to_the_resolved_address() -> None:
    """An attempt resolves the host once, and connects to the address that was checked."""
    resolve, calls = resolving_to("127.0.0.1")
    with Receiver() as receiver:
        url = f"http://hooks.invalid:{receiver.port}/x"
        client = HttpClient(url, timeout=PATIENCE, headers={}, resolve=resolve)
        await client.post(b"{}")
        await client.aclose()

    assert calls == [("hooks.invalid", receiver.port)]
    assert receiver.received[0].headers["host"] == f"hooks.invalid:{receiver.port}"


@pytest.mark.anyio
async def test_addresses_are_tried_until_one_connects() -> None:
    """The addresses are tried in their order, and RetryLater is raised if none connects."""
    with Receiver() as receiver:
        url = f"http://hooks.invalid:{receiver.port}/x"
        resolve, _ = resolving_to("::1", "127.0.0.2", "127.0.0.1")
        client = HttpClient(url, timeout=PATIENCE, headers={}, resolve=resolve)
        await client.post(b"{}")
        await client.aclose()
        resolve, _ = resolving_to("::1", "127.0.0.2")
        client = HttpClient(url, timeout=PATIENCE, headers={}, resolve=resolve)
        error = await error_of(lambda: client.post(b"{}"))
        await client.aclose()

    assert len(receiver.received) == 1
    assert type(error) is RetryLater


@pytest.mark.parametrize(("host", "accepted"), [("hooks.invalid", True), ("other.invalid", False)])
@pytest.mark.anyio
async def test_certificate_is_verified_for_the_host_name(host: str, accepted: bool) -> None:
    """TLS uses the host name of the URL, though the connection goes to an address."""
    authority = trustme.CA()
    client_tls, server_tls = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(client_tls)
    authority.issue_cert("hooks.invalid").configure_cert(server_tls)
    names: list[str | None] = []
    server_tls.sni_callback = lambda _, name, __: names.append(name)
    resolve, _ = resolving_to("127.0.0.1")
    with Receiver(tls=server_tls) as receiver:
        transport = httpx2.AsyncHTTPTransport(verify=client_tls, trust_env=False)
        url = f"https://{host}:{receiver.port}/x"
        client = HttpClient(url, timeout=PATIENCE, headers={}, resolve=resolve, transport=transport)
        with suppress(RetryLater):
            await client.post(b"{}")
        await transport.aclose()

    assert names == [host]
    assert len(receiver.received) == accepted


@pytest.mark.anyio
async def test_transport_of_the_caller_is_not_closed() -> None:
    """Sinks share the connection of a transport, and leave it open."""
    with Receiver() as receiver:
        async with httpx2.AsyncHTTPTransport() as transport:
            for _ in range(2):
                sink = WebhookSink(receiver.url, transport=transport)
                await sink(event())
                await sink.aclose()

    assert len({request.port for request in receiver.received}) == 1


@pytest.mark.anyio
async def test_event_that_json_cannot_represent_is_rejected() -> None:
    """An event that cannot be encoded is rejected without a request."""
    with Receiver() as receiver:
        invalid = replace(event(), at=1e18)
        error = await error_of(lambda: WebhookSink(receiver.url)(invalid))

    assert type(error) is Rejected
    assert receiver.received == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_status_of_success_is_accepted(status: int) -> None:
    """Any status from 200 to 299 means that the event is accepted."""
    check_response("http://there", status, {}, NOW)


@pytest.mark.parametrize("status", [301, 308, 400, 401, 403, 404, 405, 409, 410, 413, 422, 451])
def test_permanent_status_is_rejected(status: int) -> None:
    """Most client errors and the permanent redirects raise Rejected."""
    with pytest.raises(Rejected, match=f"^http://there responded with {status}") as caught:
        check_response("http://there", status, {}, NOW)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "status", [101, 302, 303, 307, 408, 425, 429, 500, 501, 502, 503, 599, 600]
)
def test_temporary_status_is_retried(status: int) -> None:
    """Server errors, temporary redirects and temporary client errors raise RetryLater."""
    with pytest.raises(RetryLater, match=f"^http://there responded with {status}") as caught:
        check_response("http://there", status, {"retry-after": "7"}, NOW)
    assert caught.value.after == 7


def test_error_of_a_redirect_says_how_to_fix_it() -> None:
    """The error of a redirect advises to use the URL of its target, without showing it."""
    with pytest.raises(Rejected, match=r"use the URL of its target$"):
        check_response("http://there", 301, {"location": "http://secret"}, NOW)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("999999999", 3600),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60),
        ("Fri, 02 Jan 2026 03:03:05 GMT", 0),
        ("Fri, 02 Jan 2099 03:05:05 GMT", 3600),
        ("Friday, 02-Jan-26 03:05:05 GMT", 60),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("\u0661", None),
        ("soon", None),
        ("Fri, 99 Jan 2026 03:05:05 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    """Retry-After is a number of seconds or a date, limited to an hour; else it is ignored."""
    assert parse_retry_after(header, NOW) == seconds


@given(st.text())
def test_any_retry_after_is_at_most_an_hour_or_ignored(header: str) -> None:
    """Any header gives 0 to 3600 seconds, or None."""
    seconds = parse_retry_after(header, NOW)

    assert seconds is None or 0 <= seconds <= 3600

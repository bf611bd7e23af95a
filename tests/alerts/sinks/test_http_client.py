"""One attempt to send, on real servers: what they do wrong costs no more than the attempt."""

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

from tokenpulse_mw.alerts import sinks
from tokenpulse_mw.alerts.sinks import Rejected, RetryLater, SlackSink, WebhookSink
from tokenpulse_mw.alerts.sinks.http_client import HttpClient, check_response, parse_retry_after
from tokenpulse_mw.alerts.sinks.ssrf import Find

from ...support.receiver import Answer, Receiver, answering, dripping, endless, saying, silent
from ...support.servers import free_port
from ...support.waiting import PATIENCE
from .events import event

SECRET_PATH = "/services/T0/B0/hunter2?key=hunter2"


def always(*addresses: str) -> tuple[Find, list[tuple[str, int]]]:
    """A look-up that gives these addresses, and a list of what it was asked."""
    asked: list[tuple[str, int]] = []

    async def find(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return list(addresses)

    return find, asked


async def outcome(attempt: Callable[[], Awaitable[None]]) -> Exception:
    """What `attempt` raises."""
    try:
        await attempt()
    except (RetryLater, Rejected) as error:
        return error
    raise AssertionError("it was taken")


@pytest.mark.anyio
async def test_an_event_that_is_taken_is_taken() -> None:
    """It arrives once, with the path of the URL, and who sends it says so."""
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
    """And the sink can be used again afterwards."""
    with Receiver(answering(200, b"ok")) as receiver:
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
    ("answer", "kind"),
    [
        (answering(500), RetryLater),
        (answering(404), Rejected),
        (saying(b""), RetryLater),
        (saying(b"what do you want?\r\n\r\n"), RetryLater),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), RetryLater),
        (saying(b"HTTP/1.1 OK\r\n\r\n"), RetryLater),
        (saying(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"), RetryLater),
        (silent, RetryLater),
        (dripping, RetryLater),
    ],
    ids=["5xx", "4xx", "none", "garbage", "half", "no-status", "huge", "silent", "dripping"],
)
@pytest.mark.anyio
async def test_a_bad_answer_is_an_error_of_ours(answer: Answer, kind: type[Exception]) -> None:
    """Within the time that an attempt may take, and with no more in it than who it was."""
    with Receiver(answer) as receiver:
        timeout = 0.3 if answer in (silent, dripping) else PATIENCE
        sink = WebhookSink(
            receiver.url + SECRET_PATH, timeout=timeout, headers={"x-key": "hunter2"}
        )
        with anyio.fail_after(PATIENCE):
            error = await outcome(lambda: sink(event()))
        await sink.aclose()

    assert type(error) is kind
    assert str(error).startswith(receiver.url)
    assert "hunter2" not in str(error)


@pytest.mark.anyio
async def test_an_answer_that_does_not_end_is_not_read_to_its_end() -> None:
    """Its status is what counts; the rest costs neither memory nor time."""
    with Receiver(endless) as receiver:
        sink = WebhookSink(receiver.url, timeout=PATIENCE)
        await sink(event())  # whatever is set up once
        tracemalloc.start()
        with anyio.fail_after(PATIENCE):
            await sink(event())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await sink.aclose()

    assert most < 1_000_000


@pytest.mark.anyio
async def test_who_is_not_there_may_be_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, or nobody is called so."""

    def look_up(*arguments: object, **options: object) -> None:
        raise socket.gaierror("hunter2")

    for url in (f"http://127.0.0.1:{free_port()}", "http://[::1]:9", "http://nobody.invalid"):
        if url.endswith("invalid"):
            monkeypatch.setattr(socket, "getaddrinfo", look_up)
        sink = WebhookSink(url + SECRET_PATH, timeout=PATIENCE)
        error = await outcome(lambda sink=sink: sink(event()))  # type: ignore[misc]
        await sink.aclose()

        assert type(error) is RetryLater
        assert str(error).startswith(f"{url} cannot be asked (")
        assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("status", "kind"), [(301, Rejected), (302, RetryLater), (307, RetryLater)]
)
@pytest.mark.anyio
async def test_a_redirect_is_never_followed(status: int, kind: type[Exception]) -> None:
    """It could lead into our own network, and would be sent what is signed for another."""
    with Receiver() as inside, Receiver(answering(status, Location=inside.url)) as receiver:
        sink = WebhookSink(receiver.url)
        error = await outcome(lambda: sink(event()))
        await sink.aclose()

    assert type(error) is kind
    assert inside.received == []


@pytest.mark.anyio
async def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that it names would be told all alerts, with their secrets."""
    with Receiver() as receiver, Receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        sink = WebhookSink(receiver.url)
        await sink(event())
        await sink.aclose()

    assert len(receiver.received) == 1
    assert proxy.received == []


@pytest.mark.anyio
async def test_a_receiver_cannot_plant_cookies() -> None:
    """Nothing of an answer is kept."""
    with Receiver(answering(200, Set_Cookie="a=1")) as receiver:
        sink = WebhookSink(receiver.url)
        for _ in range(2):
            await sink(event())
        await sink.aclose()

    assert "cookie" not in receiver.received[1].headers


@pytest.mark.anyio
async def test_a_login_in_the_url_is_sent_as_such() -> None:
    """As Basic authentication, unless there is a header of that name."""
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
async def test_logs_never_show_the_url(caplog: pytest.LogCaptureFixture) -> None:
    """At no level, and whether it is taken or not."""
    caplog.set_level(logging.DEBUG)
    with Receiver() as receiver:
        url = receiver.url.replace("//", "//hunter2:hunter2@") + SECRET_PATH
        sink = WebhookSink(url, headers={"x-key": "hunter2"}, secret="whsec_" + "hunter2A" * 5)
        await sink(event())
        receiver.answer = saying(b"?")
        await outcome(lambda: sink(event()))
        await sink.aclose()

    assert len(receiver.received) == 2
    assert "hunter2" not in caplog.text


@pytest.mark.anyio
async def test_what_others_cancel_stays_cancelled() -> None:
    """Only the sink's own deadline is the receiver's fault."""
    with Receiver(silent) as receiver:
        sink = WebhookSink(receiver.url, timeout=PATIENCE)
        with anyio.move_on_after(0.2) as scope:
            await sink(event())
        await sink.aclose()

    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """The name is looked up once in an attempt, so it cannot lead elsewhere a moment later."""
    find, asked = always("127.0.0.1")
    with Receiver() as receiver:
        url = f"http://hooks.invalid:{receiver.port}/x"
        poster = HttpClient(url, timeout=PATIENCE, headers={}, find=find)
        await poster.post(b"{}")
        await poster.aclose()

    assert asked == [("hooks.invalid", receiver.port)]
    assert receiver.received[0].headers["host"] == f"hooks.invalid:{receiver.port}"


@pytest.mark.anyio
async def test_addresses_are_tried_in_turn() -> None:
    """As when a host has one for IPv6, and this machine has none."""
    with Receiver() as receiver:
        url = f"http://hooks.invalid:{receiver.port}/x"
        find, _ = always("::1", "127.0.0.2", "127.0.0.1")
        poster = HttpClient(url, timeout=PATIENCE, headers={}, find=find)
        await poster.post(b"{}")
        await poster.aclose()
        find, _ = always("::1", "127.0.0.2")
        poster = HttpClient(url, timeout=PATIENCE, headers={}, find=find)
        error = await outcome(lambda: poster.post(b"{}"))
        await poster.aclose()

    assert len(receiver.received) == 1
    assert type(error) is RetryLater


@pytest.mark.parametrize(("name", "taken"), [("hooks.invalid", True), ("other.invalid", False)])
@pytest.mark.anyio
async def test_a_certificate_is_checked_for_the_name_and_not_the_address(
    name: str, taken: bool
) -> None:
    """Though the connection goes to an address: the receiver is asked by name, and has to be it."""
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    authority.issue_cert("hooks.invalid").configure_cert(theirs)
    names: list[str | None] = []
    theirs.sni_callback = lambda _, name, __: names.append(name)
    find, _ = always("127.0.0.1")
    with Receiver(tls=theirs) as receiver:
        transport = httpx2.AsyncHTTPTransport(verify=ours, trust_env=False)
        url = f"https://{name}:{receiver.port}/x"
        poster = HttpClient(url, timeout=PATIENCE, headers={}, find=find, transport=transport)
        with suppress(RetryLater):
            await poster.post(b"{}")
        await transport.aclose()

    assert names == [name]
    assert len(receiver.received) == taken


@pytest.mark.anyio
async def test_a_transport_of_ones_own_is_used_and_not_closed() -> None:
    """Such as one with a certificate authority of the company, or a proxy."""
    with Receiver() as receiver:
        async with httpx2.AsyncHTTPTransport() as transport:
            for _ in range(2):
                sink = WebhookSink(receiver.url, transport=transport)
                await sink(event())
                await sink.aclose()

    assert len({request.port for request in receiver.received}) == 1


@pytest.mark.anyio
async def test_an_event_that_cannot_be_written_will_never_be_taken() -> None:
    """It is rejected, and not tried for ever."""
    with Receiver() as receiver:
        broken = replace(event(), at=1e18)
        error = await outcome(lambda: sinks.WebhookSink(receiver.url)(broken))

    assert type(error) is Rejected
    assert receiver.received == []


NOW = 1_767_323_045.0  # Fri, 02 Jan 2026 03:04:05 GMT


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success_is_success(status: int) -> None:
    """Any status from 200 to 299."""
    check_response("http://there", status, {}, NOW)


@pytest.mark.parametrize("status", [301, 308, 400, 401, 403, 404, 405, 409, 410, 413, 422, 451])
def test_what_will_never_be_taken_is_rejected(status: int) -> None:
    """Errors of ours, and redirects that are for good."""
    with pytest.raises(sinks.Rejected, match=f"^http://there answered {status}") as caught:
        check_response("http://there", status, {}, NOW)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "status", [101, 302, 303, 307, 408, 425, 429, 500, 501, 502, 503, 599, 600]
)
def test_what_may_pass_is_for_later(status: int) -> None:
    """Errors of theirs, and those of ours that are a matter of time."""
    with pytest.raises(sinks.RetryLater, match=f"^http://there answered {status}") as caught:
        check_response("http://there", status, {"retry-after": "7"}, NOW)
    assert caught.value.after == 7


def test_a_redirect_says_how_to_mend_it() -> None:
    """It is not followed, so the URL has to be changed."""
    with pytest.raises(sinks.Rejected, match="give the address that it leads to"):
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
    """And at most an hour; what is neither asks for nothing."""
    assert parse_retry_after(header, NOW) == seconds


@given(st.text())
def test_no_retry_after_does_harm(header: str) -> None:
    """Whatever is in the header."""
    seconds = parse_retry_after(header, NOW)

    assert seconds is None or 0 <= seconds <= 3600

"""Limits by the model of a request on uvicorn, with bodies that are streamed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Policy, Settings, TokenPulse, keys
from tokenpulse_mw.demo.server import LocalServer

from ..support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

HEAD = b"POST / HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each part of the body of the request back at once, as a duplex proxy does."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


@contextmanager
def connected(app: ASGIApp) -> Iterator[socket.socket]:
    """Yield a connection to a server of `app`."""
    with LocalServer(app) as server:
        address = urlsplit(server.url)
        assert address.hostname is not None
        with socket.create_connection((address.hostname, address.port or 0)) as client:
            client.settimeout(PATIENCE)
            yield client


def chunk(body: bytes) -> bytes:
    """Return a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def read_until(client: socket.socket, part: bytes) -> bytes:
    """Return what the server sends up to `part`."""
    received = b""
    while part not in received:
        data = client.recv(65536)
        assert data, received
        received += data
    return received


def limited(app: ASGIApp) -> ASGIApp:
    """Return `app` behind a gateway with a limit by model."""
    policies = [Policy("9/minute", key=keys.model())]
    return TokenPulse(policies=policies, settings=Settings(alerts=False)).wrap(app)


def test_body_is_passed_on_as_soon_as_the_model_is_known() -> None:
    """The vendor can respond before the client has sent the rest."""
    with connected(limited(echo)) as client:
        client.sendall(HEAD + chunk(b'{"model":"gpt-5",'))
        received = read_until(client, b'{"model":"gpt-5",')
        client.sendall(chunk(b'"messages":[]}') + b"0\r\n\r\n")
        received += read_until(client, b"0\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"messages":[]}' in received


def test_large_body_is_echoed_byte_for_byte() -> None:
    """The model after 64 KiB is not found, and the body is unchanged."""
    body = json.dumps({"prompt": "é\\" * 100_000, "model": "gpt-5"}).encode()

    with LocalServer(limited(echo)) as server:
        parts = (body[start : start + 5000] for start in range(0, len(body), 5000))
        response = httpx2.post(server.url, content=parts, timeout=PATIENCE)

    assert response.content == body


def test_client_that_leaves_while_the_model_is_read_is_a_disconnect() -> None:
    """The application receives the disconnect, and the exchange has its outcome."""
    with LocalServer(limited(echo)) as server:
        address = urlsplit(server.url)
        client = socket.create_connection((address.hostname or "", address.port or 0))
        client.sendall(HEAD + chunk(b'{"messages":'))
        client.close()
        labels = 'provider="unknown",outcome="client_disconnect"'
        sample = f"tokenpulse_http_responses_total{{{labels}}} 1.0"
        with httpx2.Client(base_url=server.url, timeout=PATIENCE) as http:
            wait_until(lambda: sample in http.get("/metrics").text)

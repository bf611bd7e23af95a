"""The configuration of nginx, in front of a gateway on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tokenpulse_mw import Settings, TokenPulse
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.monitoring import write_files

from ..support.proxies import nginx_server
from ..support.servers import started
from ..support.waiting import PATIENCE

pytestmark = pytest.mark.server

TOKEN = "a-token-of-enough-characters"


async def hello(request: Request) -> PlainTextResponse:
    """Return the headers that nginx sends."""
    return PlainTextResponse(request.headers["x-forwarded-proto"])


class Stream:
    """Endpoint whose second chunk follows when the client has received the first."""

    def __init__(self) -> None:
        self._received = anyio.Event()

    async def start(self, request: Request) -> StreamingResponse:
        """Return the stream."""

        async def chunks() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await self._received.wait()
            yield b"data: 2\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def proceed(self, request: Request) -> PlainTextResponse:
        """Note that the client has received the first chunk."""
        self._received.set()
        return PlainTextResponse("")


@pytest.fixture
def nginx_url(tmp_path: Path) -> Iterator[str]:
    """Return the URL of an nginx with the written configuration, in front of a gateway."""
    stream = Stream()
    app = Starlette(
        routes=[
            Route("/v1/models", hello),
            Route("/v1/stream", stream.start),
            Route("/v1/proceed", stream.proceed, methods=["POST"]),
        ]
    )
    settings = Settings(limit="2/minute", trusted_proxies=("127.0.0.1",), admin_token=TOKEN)
    TokenPulse(settings=settings, credentials={"claude": True}).install(app)
    with LocalServer(app) as gateway:
        write_files(tmp_path, gateway=gateway.url.removeprefix("http://"))
        server = nginx_server(tmp_path, (tmp_path / "nginx/gateway.conf").read_text())
        for running in started(server, "nginx"):
            yield f"http://{running.place}"


def client(url: str, address: str) -> httpx2.Client:
    """Return a client with an address of its own."""
    transport = httpx2.HTTPTransport(local_address=address)
    return httpx2.Client(base_url=url, transport=transport, timeout=PATIENCE)


def test_each_client_behind_nginx_has_its_own_limit(nginx_url: str) -> None:
    """The gateway sees the address of the client, and ignores what the client claims."""
    with client(nginx_url, "127.0.0.2") as first, client(nginx_url, "127.0.0.3") as second:
        forged = [{"x-forwarded-for": f"198.51.100.{number}"} for number in range(3)]
        statuses = [first.get("/v1/models", headers=headers).status_code for headers in forged]

        assert statuses == [200, 200, 429]
        assert second.get("/v1/models").text == "http"


def test_chunk_of_a_stream_arrives_before_the_next_exists(nginx_url: str) -> None:
    """A stream is passed on as it arrives."""
    with (
        client(nginx_url, "127.0.0.2") as reader,
        client(nginx_url, "127.0.0.3") as other,
        reader.stream("GET", "/v1/stream") as response,
    ):
        chunks = response.iter_bytes()
        assert next(chunks) == b"data: 1\n\n"
        other.post("/v1/proceed")
        assert b"".join(chunks) == b"data: 2\n\n"


def test_endpoints_of_operators_are_not_reachable_through_nginx(nginx_url: str) -> None:
    """They have credentials, or cost the gateway more than a request."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    paths = ["/metrics", "/admin/alerts", "/admin/", "/api/credentials/status"]
    with client(nginx_url, "127.0.0.2") as outside:
        answers = [outside.get(path, headers=headers) for path in paths]
        health = outside.get("/health")

    assert {answer.status_code for answer in answers} == {404}
    assert all("nginx" in answer.text for answer in answers)
    assert health.json()["status"] == "ok"

"""Real `TokenPulse` on uvicorn, and the traffic that fills its live page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import cycle
from typing import Any
from urllib.parse import quote, unquote

import anyio
import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import AlertEngine, Policy, Rates, Settings, TokenPulse, annotate, keys

from ...support.clock import FakeClock
from ...support.servers import free_port
from ...support.waiting import PATIENCE, wait_until

TOKEN = "a-token-of-some-length"
SLOT = 15.0  # seconds
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
}
REJECTED = {"error": {"message": "invalid key", "type": "authentication_error"}}


class Authentication:
    """Annotates the facts that a request names in its headers, in percent-encoding."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            facts: dict[str, Any] = {
                name.decode()[2:].replace("-", "_"): unquote(value.decode("latin-1"))
                for name, value in scope["headers"]
                if name in (b"x-tenant", b"x-tenant-name", b"x-provider", b"x-credential")
                or name == b"x-credential-group"
            }
            annotate(scope, **facts)
        await self.app(scope, receive, send)


async def chat(request: Request) -> Response:
    """Answer as OpenAI does, with the status that the request names."""
    status = int(request.headers.get("x-status", "200"))
    return JSONResponse(ANSWER if status == 200 else REJECTED, status_code=status)


async def stream(request: Request) -> Response:
    """Stream without an end."""

    async def parts() -> Any:
        yield b"data: {}\n\n"
        await anyio.sleep_forever()

    return StreamingResponse(parts(), media_type="text/event-stream")


def new_pulse(**options: Any) -> TokenPulse:
    """Return a TokenPulse of two providers, with a limit of each tenant."""
    settings = {"admin_token": TOKEN, **options.pop("settings", {})}
    if "authorize" in options:
        del settings["admin_token"]
    return TokenPulse(
        service="gateway",
        settings=Settings(**settings),
        **{
            "providers": ["openai", "claude"],
            "policies": [],
            "inner_policies": [Policy("10/hour", key=keys.annotation("tenant"), name="tenants")],
            "prices": {"gpt-4o": Rates(input=1, output=2)},
            **options,
        },
    )


def new_app(pulse: TokenPulse) -> Starlette:
    """Return a gateway."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/stream", stream, methods=["POST"]),
        ]
    )
    app.add_middleware(Authentication)
    pulse.install(app)
    return app


class RealGateway:
    """Gateway on loopback, whose page has the numbers of a clock that the test advances.

    The clock ends at about the present, so that the page shows plausible ages.

    Args:
        root_path: Path below which a proxy serves the gateway.
        clock: Clock of the numbers; a new one by default.
        options: Arguments of `TokenPulse`.

    Attributes:
        pulse: The TokenPulse.
        clock: The clock.
        port: The port.
    """

    def __init__(
        self, *, root_path: str = "", clock: FakeClock | None = None, **options: Any
    ) -> None:
        self.port = free_port()
        self.pulse = new_pulse(**options)
        self.clock = new_clock() if clock is None else clock
        self.board: Any = self.pulse._dashboard.dashboard
        follow(self.board, self.clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            self._with_loop(new_app(self.pulse)),
            host="127.0.0.1",
            port=self.port,
            root_path=root_path,
            log_config=None,
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> RealGateway:
        self._thread.start()
        wait_until(lambda: self._server.started, "the gateway does not start")
        self.sample()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    @property
    def origin(self) -> str:
        """Return scheme, host and port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Return the URL of the page."""
        return f"{self.origin}/admin/"

    @property
    def engine(self) -> AlertEngine:
        """Return the alert engine."""
        return self.pulse.engine

    def chat(self, count: int = 1, *, status: int = 200, **facts: Any) -> list[int]:
        """Send requests with facts such as `tenant`, and return the statuses of the responses."""
        headers = {f"x-{name.replace('_', '-')}": quote(fact) for name, fact in facts.items()}
        headers["x-status"] = str(status)
        with self.client() as client:
            return [
                client.post("/v1/chat/completions", headers=headers, json={}).status_code
                for _ in range(count)
            ]

    @contextmanager
    def streaming(self, **facts: Any) -> Iterator[None]:
        """Have a stream in progress during the body."""
        headers = {f"x-{name.replace('_', '-')}": quote(fact) for name, fact in facts.items()}
        with self.client() as client, client.stream("POST", "/v1/stream", headers=headers) as part:
            parts = part.iter_raw()  # which closes the connection when it is collected
            assert next(parts)
            yield
            del parts

    def client(self, **headers: str) -> httpx2.Client:
        """Return an HTTP client of the gateway."""
        return httpx2.Client(
            base_url=self.origin, headers=headers, trust_env=False, timeout=PATIENCE
        )

    def sample(self) -> None:
        """End a slot of the numbers, so that the page has the requests since the last one."""
        self.clock.advance(SLOT)
        self.run(self.board.sampler.sample())

    def evaluate(self) -> None:
        """Evaluate the rules."""
        self.run(self.engine.evaluate())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the event loop of the gateway, and return its result."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def _with_loop(self, app: ASGIApp) -> ASGIApp:
        async def with_loop(scope: Scope, receive: Receive, send: Send) -> None:
            self._loop = asyncio.get_running_loop()
            await app(scope, receive, send)

        return with_loop


def new_clock() -> FakeClock:
    """Return a clock that is at the present two slots later, at the beginning of a slot."""
    clock = FakeClock()
    clock.now -= 2 * SLOT + clock.wall() % SLOT - 0.1
    return clock


def follow(board: Any, clock: FakeClock) -> None:
    """Let the clock number the slots of the numbers."""
    cached = (board._merged, board._store, board._checks, board._tenants)
    for part in (board, board.sampler, board._fleet, *cached):
        if part is not None:
            part._clock = clock
    board._wall = board.sampler._wall = clock.wall


class Proxy:
    """Server that forwards each request to the next of several gateways.

    Args:
        gateways: The gateways.
        prefix: Beginning of the paths, which is removed.

    Attributes:
        paths: Paths of the requests.
    """

    def __init__(self, *gateways: RealGateway, prefix: str = "") -> None:
        self.port, self.prefix = free_port(), prefix
        self.paths: list[str] = []
        self._gateways = cycle(gateways)
        methods = ["GET", "POST", "PUT", "PATCH"]
        app = Starlette(
            routes=[Route("/{path:path}", self._forward, methods=methods)],
            lifespan=self._lifespan,
        )
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, log_config=None, access_log=False, ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        wait_until(lambda: self._server.started, "the proxy does not start")
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        """Return the URL of the page."""
        return f"http://127.0.0.1:{self.port}{self.prefix}/admin/"

    def skip(self) -> None:
        """Let the next gateway miss its turn."""
        next(self._gateways)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as self._client:
            yield

    async def _forward(self, request: Request) -> Response:
        gateway, path = next(self._gateways), request.url.path
        self.paths.append(path)
        url = f"{gateway.origin}{path.removeprefix(self.prefix)}"
        url += f"?{request.url.query}" if request.url.query else ""
        answer = await self._client.request(
            request.method, url, headers=request.headers.raw, content=await request.body()
        )
        response = Response(answer.content, answer.status_code)
        response.raw_headers = answer.headers.raw
        return response


def restartable() -> ASGIApp:
    """Return the application of a process that a test starts again."""
    return new_app(new_pulse())

"""RateLimitMiddleware: 429 for whoever asks too often, headers for all."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.apps import answering
from tests.support.asgi import Answer, drive, http_scope
from tests.support.clock import FakeClock
from tokenpulse_mw import (
    Decision,
    Exchange,
    ExchangeMiddleware,
    HttpMetrics,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    header,
    problem_details,
    requests_to,
)
from tokenpulse_mw.demo.server import LocalServer


@pytest.mark.anyio
async def test_the_seeds_answer() -> None:
    """Of 150 requests in a minute 100 are answered, 50 get 429; another client is untouched."""
    app = RateLimitMiddleware(answering())

    answers = [await drive(app) for _ in range(150)]
    other = await drive(app, http_scope(client=("192.0.2.2", 1)))

    assert [answer.status for answer in answers] == [200] * 100 + [429] * 50
    assert answers[-1].body == b"Too Many Requests"
    assert answers[-1].headers["content-type"].startswith("text/plain")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert other.status == 200


@pytest.mark.anyio
async def test_whoever_waits_as_told_is_let_in(clock: FakeClock) -> None:
    """`Retry-After` is honest, and at least 1 also when the window ends in a moment."""
    app = RateLimitMiddleware(answering(), limiter=Limiter("1/minute", clock=clock))
    await drive(app)
    clock.advance(59.9)

    refused = await drive(app)
    clock.advance(int(refused.headers["retry-after"]))

    assert refused.headers["retry-after"] == "1"
    assert (await drive(app)).status == 200


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_every_answer_tells_where_the_client_stands(around: type[ExchangeMiddleware]) -> None:
    """The headers are on answers of the application and on 429, with and without an exchange."""
    limiter = Limiter("1/minute", clock=FakeClock())
    app = around(RateLimitMiddleware(answering(headers=[(b"x", b"y")]), limiter=limiter))

    first, second = await drive(app), await drive(app)

    assert first.headers["ratelimit-policy"] == '"default";q=1;w=60'
    assert first.headers["ratelimit"] == second.headers["ratelimit"] == '"default";r=0;t=60'
    assert first.headers["x"] == "y"


@pytest.mark.anyio
async def test_headers_can_be_left_out() -> None:
    """A gateway may keep its limits to itself."""
    app = RateLimitMiddleware(answering(), headers=None)

    assert list((await drive(app)).headers) == ["content-type"]


@pytest.mark.anyio
async def test_exempt_paths_are_not_counted() -> None:
    """Probes and the scrape are never limited, and say nothing of limits."""
    limiter = Limiter("1/day")
    app = RateLimitMiddleware(answering(), limiter=limiter)

    answers = [await drive(app, http_scope("/health/live")) for _ in range(3)]

    assert [answer.status for answer in answers] == [200] * 3
    assert "ratelimit" not in answers[0].headers
    assert len(limiter) == 0


@pytest.mark.anyio
async def test_a_request_without_a_key_is_not_limited() -> None:
    """A key of None says that this limit is not meant for it."""
    app = RateLimitMiddleware(answering(), limit="1/day", key=header("x-api-key"))

    assert [(await drive(app)).status for _ in range(3)] == [200] * 3


@pytest.mark.anyio
async def test_shadow_mode_only_tells() -> None:
    """With `enforce=False` every request passes, and the decisions are told all the same."""
    told: list[bool] = []

    def note(scope: Scope, decision: Decision) -> None:
        told.append(decision.allowed)

    app = RateLimitMiddleware(answering(), limit="1/day", enforce=False, on_decision=note)

    assert [(await drive(app)).status for _ in range(3)] == [200] * 3
    assert told == [True, False, False]


@pytest.mark.anyio
async def test_the_answer_can_be_another() -> None:
    """`respond` makes it from the decision."""
    app = RateLimitMiddleware(
        answering(),
        limiter=Limiter("1/day", clock=FakeClock()),
        respond=lambda decision: JSONResponse({"wait": decision.retry_after}, status_code=429),
    )
    await drive(app)

    assert (await drive(app)).body == b'{"wait":86400.0}'


@pytest.mark.anyio
async def test_an_exchange_knows_that_it_was_limited() -> None:
    """Whoever observes can tell our 429 from one of the application."""
    seen: list[Exchange] = []
    limited = RateLimitMiddleware(answering(), limit="1/day")
    app = ExchangeMiddleware(limited, observers=[seen.append])

    await drive(app)
    await drive(app)
    await drive(ExchangeMiddleware(answering(status=429), observers=[seen.append]))

    assert [(each.status, each.limited) for each in seen] == [
        (200, False),
        (429, True),
        (429, False),
    ]


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_a_failure_of_ours_lets_the_request_pass(
    around: type[ExchangeMiddleware], caplog: pytest.LogCaptureFixture
) -> None:
    """A key function that raises limits nobody, and is logged once."""

    def key(scope: Scope) -> str:
        raise KeyError("user")

    app = around(RateLimitMiddleware(answering(), key=key))

    with caplog.at_level(logging.ERROR):
        assert [(await drive(app)).status for _ in range(2)] == [200, 200]

    assert [record.args for record in caplog.records] == [("ratelimit", "KeyError")]


@pytest.mark.anyio
async def test_a_failing_callback_changes_no_decision() -> None:
    """Whoever is told of decisions cannot undo them by raising."""

    def note(scope: Scope, decision: Decision) -> None:
        raise RuntimeError("no disk")

    app = RateLimitMiddleware(answering(), limit="1/day", on_decision=note)

    assert [(await drive(app)).status for _ in range(2)] == [200, 429]


async def async_key(scope: Scope) -> str:
    """A key that cannot be waited for."""
    return "me"


class AsyncKey:
    """An object whose call cannot be waited for either."""

    async def __call__(self, scope: Scope) -> str:
        return "me"


@pytest.mark.parametrize(
    "options",
    [
        {"key": "x-api-key"},
        {"key": async_key},
        {"key": AsyncKey()},
        {"respond": 429},
        {"respond": None},
        {"respond": async_key},
        {"on_decision": []},
        {"on_decision": AsyncKey()},
    ],
)
def test_what_is_no_function_is_refused(options: dict[str, Any]) -> None:
    """A limit that could tell nobody apart would let everyone through."""
    with pytest.raises(ValueError, match="must be a function, and not async, got"):
        RateLimitMiddleware(answering(), **options)


def test_two_limits_are_one_too_many() -> None:
    """A limit beside a limiter would be silently ignored, so it is refused."""
    with pytest.raises(ValueError, match="give limit or limiter, not both: got '5/minute' and"):
        RateLimitMiddleware(answering(), limit="5/minute", limiter=Limiter("1/day"))


def test_an_empty_limiter_is_still_the_one_given() -> None:
    """A limiter that has seen nobody yet is not taken for none."""
    limiter = Limiter("7/day")

    assert RateLimitMiddleware(answering(), limiter=limiter).limiter is limiter


# Several policies.


class Gateway:
    """A gateway with a limit for addresses, one for API keys, and one for what is expensive."""

    def __init__(self, clock: FakeClock, **options: Any) -> None:
        self.by_address = Limiter("6/minute", clock=clock)
        self.by_key = Limiter("4/hour", clock=clock)
        self.for_chat = Limiter("2/day", clock=clock)
        self.app = RateLimitMiddleware(
            answering(),
            policies=[
                Policy(self.by_address, name="address", key=lambda scope: scope["client"][0]),
                Policy(self.by_key, name="key", key=api_key),
                Policy(
                    self.for_chat,
                    name="chat",
                    key=api_key,
                    when=requests_to("/v1/chat/*", methods=["POST"]),
                ),
            ],
            **options,
        )

    @property
    def left(self) -> list[int]:
        """What the client at 192.0.2.1 with the key "k" may still do."""
        return [
            self.by_address.peek("192.0.2.1").remaining,
            self.by_key.peek("k").remaining,
            self.for_chat.peek("k").remaining,
        ]

    async def ask(self, method: str = "POST", path: str = "/v1/chat/completions") -> Answer:
        """Send a request of that client."""
        scope = http_scope(path, method=method, headers=[(b"x-api-key", b"k")])
        return await drive(self.app, scope)


def api_key(scope: Scope) -> str | None:
    """The API key of a request."""
    return dict(scope["headers"]).get(b"x-api-key", b"").decode() or None


@pytest.mark.anyio
async def test_each_policy_counts_the_requests_that_it_is_for(clock: FakeClock) -> None:
    """By address, by key, and by path and method; the answer names those that were asked."""
    gateway = Gateway(clock)

    chat = await gateway.ask()
    assert gateway.left == [5, 3, 1]
    assert chat.headers["ratelimit-policy"] == (
        '"address";q=6;w=60,"key";q=4;w=3600,"chat";q=2;w=86400'
    )
    assert chat.headers["ratelimit"] == '"address";r=5;t=60,"key";r=3;t=3600,"chat";r=1;t=86400'
    other = await gateway.ask("GET", "/v1/models")
    assert gateway.left == [4, 2, 1]
    assert other.headers["ratelimit"] == '"address";r=4;t=60,"key";r=2;t=3600'
    nobody = await drive(gateway.app)
    assert gateway.left == [3, 2, 1]
    assert nobody.headers["ratelimit"] == '"address";r=3;t=60'


@pytest.mark.anyio
async def test_a_refusal_by_one_consumes_nothing_of_the_others(clock: FakeClock) -> None:
    """However often it is asked; what else the client may do, it may still do."""
    gateway = Gateway(clock, respond=problem_details)
    for _ in range(2):
        await gateway.ask()
    before = gateway.left

    refusals = [await gateway.ask() for _ in range(5)]

    assert [answer.status for answer in refusals] == [429] * 5
    assert gateway.left == before == [4, 2, 0]
    assert refusals[0].headers["retry-after"] == "86400"
    assert refusals[0].headers["ratelimit"] == (
        '"address";r=4;t=60,"key";r=2;t=3600,"chat";r=0;t=86400'
    )
    assert (await gateway.ask("GET", "/v1/models")).status == 200


@pytest.mark.anyio
async def test_the_refusal_with_the_longest_wait_is_told(clock: FakeClock) -> None:
    """Who waits for it is let in by all of them; problem details name all that refused."""
    gateway = Gateway(clock, respond=problem_details)
    for method in ("POST", "POST", "GET", "GET"):
        await gateway.ask(method)

    both = await gateway.ask()
    one = await gateway.ask("GET")

    assert json.loads(both.body)["violated-policies"] == ["chat", "key"]
    assert json.loads(one.body)["violated-policies"] == ["key"]
    assert [both.headers["retry-after"], one.headers["retry-after"]] == ["86400", "3600"]
    clock.advance(int(both.headers["retry-after"]))
    assert (await gateway.ask()).status == 200


@pytest.mark.anyio
async def test_a_policy_can_be_tried_out_beside_others(metrics: HttpMetrics) -> None:
    """In shadow it keeps nobody out, and the metrics tell what it would have done."""
    policies = [Policy("3/day", name="old"), Policy("1/day", name="new", enforce=False)]
    app = RateLimitMiddleware(answering(), policies=policies, respond=problem_details)
    app_and_metrics = ExchangeMiddleware(app, observers=[metrics])

    answers = [await drive(app_and_metrics) for _ in range(4)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert json.loads(answers[3].body)["violated-policies"] == ["old"]
    assert answers[3].headers["ratelimit"].startswith('"old";r=0;')
    assert '"new";r=0;' in answers[3].headers["ratelimit"]
    counted = metrics.registry.get_sample_value(
        "tokenpulse_rate_limit_decisions_total", {"policy": "new", "decision": "shadow"}
    )
    assert counted == 3


@pytest.mark.anyio
async def test_requests_can_cost_more_than_one() -> None:
    """As much as a number says, or a function of the request."""

    def price(scope: Scope) -> int:
        return 3 if scope["method"] == "POST" else 0

    app = RateLimitMiddleware(
        answering(),
        policies=[
            Policy("10/day", name="fixed", cost=2, key=api_key),
            Policy("7/day", name="priced", cost=price, key=lambda scope: "all"),
        ],
    )
    told = [
        (await drive(app, http_scope(method=method, headers=[(b"x-api-key", b"k")]))).headers
        for method in ("POST", "GET", "POST", "POST")
    ]

    assert [headers["ratelimit"].split(";t=")[0] for headers in told] == [
        '"fixed";r=8',
        '"fixed";r=6',
        '"fixed";r=4',
        '"fixed";r=4',
    ]
    assert [headers["ratelimit"].split(",")[1].split(";t=")[0] for headers in told] == [
        '"priced";r=4',
        '"priced";r=4',
        '"priced";r=1',
        '"priced";r=1',
    ]


ONE = Limiter("5/day")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": "5/minute"}, "give policies, or limit, key and limiter of a single one, not"),
        ({"key": api_key}, "give policies, or limit, key and limiter of a single one, not both"),
        ({"limiter": ONE}, "give policies, or limit, key and limiter of a single one, not both"),
        ({"policies": []}, "policies must not be empty"),
        ({"policies": ["5/day"]}, "policies must be of type Policy, got '5/day'"),
        ({"policies": [Policy("5/day"), Policy("6/day")]}, "every policy needs a name of its own"),
        (
            {"policies": [Policy(ONE, name="a"), Policy(ONE, name="b")]},
            "every policy needs a limiter of its own, got one twice in .'a', 'b'.",
        ),
    ],
)
def test_policies_that_contradict_are_refused(options: dict[str, Any], said: str) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match=said):
        RateLimitMiddleware(answering(), **{"policies": [Policy("5/day")], **options})


def test_policies_may_come_from_anywhere() -> None:
    """Also from a generator; the first one's limiter is at hand."""
    policies = [Policy("5/day", name=name) for name in ("a", "b")]

    app = RateLimitMiddleware(answering(), policies=(each for each in policies))

    assert app.policies == policies
    assert app.limiter is policies[0].limiter


# The answer's headers.


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.parametrize(
    ("headers", "theirs", "sent"),
    [
        ("openai", b"X-RateLimit-Limit-Requests", [b"5"]),
        ("openai", b"x-ratelimit-remaining-tokens", []),
        ("openai", b"x-ratelimit-limit", [b"theirs"]),
        ("legacy", b"X-Ratelimit-Remaining", [b"4"]),
        ("legacy", b"x-ratelimit-limit-requests", [b"theirs"]),
        ("draft-11", b"RateLimit-Policy", [b"theirs", b'"default";q=5;w=86400']),
        ("draft-11", b"x-ratelimit-limit", [b"theirs"]),
        (None, b"ratelimit", [b"theirs"]),
    ],
)
@pytest.mark.anyio
async def test_headers_of_a_vendor_behind_us_are_not_taken_for_ours(
    headers: str | None, theirs: bytes, sent: list[bytes], around: Callable[[ASGIApp], ASGIApp]
) -> None:
    """A dialect of single values replaces its own names; what is a list may be added to."""
    vendor = answering(headers=[(theirs, b"theirs"), (b"x-request-id", b"7")])
    app = around(RateLimitMiddleware(vendor, limit="5/day", headers=headers))

    (start, _) = (await drive(app)).messages

    found = [value for name, value in start["headers"] if name.lower() == theirs.lower()]
    assert found == sent
    assert (b"x-request-id", b"7") in start["headers"]


@pytest.mark.parametrize("headers", ["draft-11", "openai", "legacy"])
@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_an_answer_without_headers_gets_ours(
    headers: str, around: Callable[[ASGIApp], ASGIApp]
) -> None:
    """ASGI lets an application leave them out; early hints and trailers pass as they are."""

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        await send({"type": "http.response.trailers", "headers": []})

    app = around(RateLimitMiddleware(bare, limit="5/day", headers=headers))

    hint, start, *rest = (await drive(app)).messages

    assert any(b"ratelimit" in name for name, _ in start["headers"])
    assert [hint, *rest] == [
        {"type": "http.response.early_hint", "links": [b"</a>"]},
        {"type": "http.response.body"},
        {"type": "http.response.trailers", "headers": []},
    ]


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_an_answer_that_cannot_be_made_is_the_seeds(
    around: Callable[[ASGIApp], ASGIApp], caplog: pytest.LogCaptureFixture
) -> None:
    """A `respond` that raises is logged once, and lets nobody in."""

    def respond(decision: Decision) -> ASGIApp:
        raise KeyError("template")

    app = around(RateLimitMiddleware(answering(), limit="1/day", respond=respond))

    answers = [await drive(app) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 429, 429]
    assert answers[1].body == b"Too Many Requests"
    assert int(answers[1].headers["retry-after"]) >= 1
    assert [record.args for record in caplog.records] == [("ratelimit", "KeyError")]


@pytest.mark.anyio
async def test_what_is_no_request_passes_untouched() -> None:
    """A lifespan is not limited, nor is what ASGI may bring one day."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    limiter = Limiter("1/day")
    limited = RateLimitMiddleware(app, limiter=limiter)
    for kind in ("lifespan", "lifespan", "webtransport"):
        await drive(limited, {"type": kind})

    assert seen == ["lifespan", "lifespan", "webtransport"]
    assert len(limiter) == 0


@pytest.mark.parametrize("path", ["/health", "/metrics"])
@pytest.mark.anyio
async def test_exempt_paths_hold_nothing(path: str) -> None:
    """No place, no tokens, and no exchange is opened for them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "tokenpulse_mw.exchange" not in scope
        await answering()(scope, receive, send)

    places = InFlight(1)
    places.hit("client")
    limited = RateLimitMiddleware(app, policies=[Policy(places, key=lambda scope: "client")])

    assert (await drive(limited, http_scope(path))).status == 200


@pytest.mark.anyio
async def test_stacked_limits_share_one_exchange() -> None:
    """Each settles what it holds itself, and observers are told of one exchange."""
    seen: list[Exchange] = []
    chat = answering(b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}')
    tenant, user, places = Limiter("100/day"), Limiter("100/day"), InFlight(5)
    app: ASGIApp = chat
    for limiter in (tenant, user):
        app = RateLimitMiddleware(
            app, policies=[Policy(limiter, key=lambda scope: "client", tokens=40)]
        )
    app = RateLimitMiddleware(app, limiter=places)

    await drive(ExchangeMiddleware(app, observers=[seen.append]), http_scope(method="POST"))

    assert len(seen) == 1
    assert [each.peek("client").remaining for each in (tenant, user)] == [93, 93]
    assert len(places) == 0


# Real servers, and clients that leave.


async def endless() -> AsyncIterator[bytes]:
    """A body without an end, as fast as the client reads it."""
    while True:
        yield bytes(65536)
        await anyio.lowlevel.checkpoint()


async def stream(request: Request) -> Response:
    """Streams to whoever reads."""
    return StreamingResponse(endless())


class Listening:
    """Says a little, if anything, and gives up when its client leaves.

    Args:
        request: What is answered.
    """

    def __init__(self, request: Request) -> None:
        self._says = request.url.path == "/says"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._says:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass


async def listening(request: Request) -> Listening:
    """An answer that waits."""
    return Listening(request)


@pytest.mark.parametrize("path", ["/stream", "/says", "/silent"])
def test_a_client_that_leaves_a_real_server_leaves_its_place(path: str) -> None:
    """In the middle of a stream, and before there is an answer: the place is soon free again."""
    places = InFlight(2)
    app = Starlette(
        routes=[
            Route("/stream", stream),
            Route("/says", listening),
            Route("/silent", listening),
        ],
        middleware=[Middleware(RateLimitMiddleware, limiter=places, key=lambda scope: "client")],
    )

    with LocalServer(app) as server:
        clients = [connected(server.url) for _ in range(3)]
        for client in clients[:2]:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_until(lambda: places.peek("client", 0).remaining == 0)
        clients[2].sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        refused = clients[2].recv(65536)
        for client in clients[:2]:
            if path != "/silent":
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        for client in clients:
            client.close()

        wait_until(lambda: len(places) == 0)

    assert refused.startswith(b"HTTP/1.1 429 ")


def connected(url: str) -> socket.socket:
    """A connection that will not wait for ever."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what a server does in its own thread."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.anyio
async def test_an_answer_that_is_none_is_the_seeds(caplog: pytest.LogCaptureFixture) -> None:
    """A `respond` that forgets its return is told of once, and the request is refused."""

    def respond(decision: Decision) -> ASGIApp:
        return None  # type: ignore[return-value]

    app = RateLimitMiddleware(answering(), limit="1/day", respond=respond)
    await drive(app)

    with caplog.at_level(logging.ERROR):
        assert [(await drive(app)).status for _ in range(2)] == [429, 429]

    assert [record.args for record in caplog.records] == [("ratelimit", "TypeError")]

"""Limits of tokens and of money: the responses of models over a WebSocket."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import (
    ExchangeMiddleware,
    InFlight,
    Limiter,
    Policy,
    Prices,
    RateLimitMiddleware,
    Rates,
    Settings,
    SharedLimiter,
    TokenPulse,
)

from ..support.clock import FakeClock
from ..support.servers import Server
from ..support.waiting import PATIENCE
from ..support.websockets import Turns, connect, proxy
from ..usage.sessions import (
    TURN_COMPLETE,
    Frame,
    live_usage,
    model_turn,
    response,
    responses_usage,
)

pytestmark = pytest.mark.anyio

LIMIT, RESERVE = 1000, 40
CREATED = response("response.created", "resp_1")
FAILED = response("response.failed", "resp_1")


def done(read: int, written: int) -> str:
    """Return the end of a response with this usage."""
    return response("response.completed", "resp_1", responses_usage(read=read, written=written))


def client(scope: Scope) -> str:
    """Return the same key for all connections."""
    return "client"


class Budget:
    """A token limit of a client, and the limited application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: str = f"{LIMIT}/minute",
        strategy: str = "fixed-window",
        metered: bool = True,
        prices: Prices | None = None,
        **options: Any,
    ) -> None:
        self.clock = FakeClock()
        self.limiter = Limiter(limit, strategy=strategy, clock=self.clock)
        self.turns = Turns()
        policy = Policy(self.limiter, name="budget", key=client, **options)
        self.app = ExchangeMiddleware(
            RateLimitMiddleware(app, policies=[policy]),
            observers=[self.turns],
            websocket_usage=metered,
            prices=prices,
        )

    @property
    def used(self) -> int:
        """Return the tokens, or micro-dollars, that are charged."""
        decision = self.limiter.peek("client")
        return decision.limit - decision.remaining


@pytest.mark.parametrize(
    ("frames", "used"),
    [
        ([], RESERVE),
        (["hi"], RESERVE),
        ([done(3, 4)], 7),
        ([done(300, 4)], 304),
        ([done(3, 4), done(5, 6)], 18),
        ([done(3, 4), done(300, 6)], 313),
        ([FAILED], RESERVE),  # a response without usage is charged the reserve
        ([done(3, 4), FAILED], 7 + RESERVE),
        ([FAILED, done(3, 4)], RESERVE + 7),
        ([CREATED], RESERVE),  # a cut response, too
        ([done(3, 4), CREATED], 7 + RESERVE),
        ([model_turn(usageMetadata=live_usage(20, 3))], 23),
        ([model_turn(usageMetadata=live_usage(20, 3)), TURN_COMPLETE], 23),
        ([model_turn(usageMetadata=live_usage(10**12, 3)), TURN_COMPLETE], RESERVE),
    ],
)
@pytest.mark.parametrize("strategy", ["fixed-window", "sliding-window-counter", "gcra"])
async def test_each_response_is_charged(frames: list[Frame], used: int, strategy: str) -> None:
    """The first response settles the reserve, and each later one is charged."""
    budget = Budget(proxy(*frames), tokens=RESERVE, strategy=strategy)

    await connect(budget.app)

    assert budget.used == used
    assert {item.route for item in budget.turns.seen} <= {"/{path}"}


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=9))
async def test_charge_is_the_sum_of_all_responses(counts: list[tuple[int, int]]) -> None:
    """The charge of a connection is exact, for any reserve."""
    budget = Budget(proxy(*(done(*pair) for pair in counts)), tokens=RESERVE)

    await connect(budget.app)

    assert budget.used == sum(map(sum, counts))


async def test_response_is_charged_when_it_ends() -> None:
    """A new connection is rejected while the connection that used the budget is still open."""
    rejected: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if rejected:
            return
        rejected.append("first")
        await proxy(done(LIMIT, 1))(scope, receive, send)
        rejected.extend(message["type"] for message in await connect(budget.app))

    budget = Budget(app, tokens=RESERVE)
    await connect(budget.app)

    assert rejected == ["first", "websocket.close"]


@pytest.mark.parametrize("error", [None, RuntimeError("vendor")], ids=["returned", "raised"])
async def test_cut_response_is_charged_before_the_limit_is_settled(
    error: Exception | None,
) -> None:
    """An application that ends without closing the connection hides no usage."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await proxy(done(3, 4), model_turn(usageMetadata=live_usage(20, 3)))(scope, receive, send)
        if error is not None:
            raise error

    budget = Budget(app, tokens=RESERVE)
    with pytest.raises(RuntimeError) if error else nullcontext():
        await connect(budget.app)

    assert budget.used == 7 + 23
    assert [item.outcome for item in budget.turns.seen] == [
        "complete",
        "error" if error else "truncated",
    ]


async def test_unmetered_websocket_is_charged_the_reserve() -> None:
    """Without metering of WebSockets, the responses are not known."""
    budget = Budget(proxy(done(300, 400)), tokens=RESERVE, metered=False)

    await connect(budget.app)

    assert budget.used == RESERVE


async def test_later_responses_count_in_the_window_in_which_they_end() -> None:
    """A connection that outlives a window is charged in the next one."""
    frames = iter([done(3, 4), done(300, 4)])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await proxy(next(frames))(scope, receive, send)
        budget.clock.advance(61)
        await proxy(next(frames))(scope, receive, send)

    budget = Budget(app, tokens=RESERVE)
    await connect(budget.app)

    assert budget.used == 304


async def test_cleared_limit_is_charged_only_for_what_follows() -> None:
    """After `clear`, the reserve of the connection is not refunded."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        budget.limiter.clear()
        await proxy(done(3, 4), done(5, 6))(scope, receive, send)

    budget = Budget(app, tokens=RESERVE)
    await connect(budget.app)

    assert budget.used == 18


async def test_weights_apply_to_each_response() -> None:
    """A token of output may count more than one of input."""
    budget = Budget(proxy(done(3, 4), done(5, 6)), tokens=RESERVE, weights={"output": 4})

    await connect(budget.app)

    assert budget.used == 3 + 16 + 5 + 24


@pytest.mark.parametrize(
    ("frames", "used"),
    [
        ([], 50_000),
        ([done(1000, 2000)], 5_000),
        ([done(1000, 2000), done(1000, 2000)], 10_000),
        ([done(1000, 2000), FAILED], 55_000),
        ([FAILED], 50_000),
    ],
)
async def test_money_is_charged_for_each_response(frames: list[Frame], used: int) -> None:
    """A budget counts the cost of each response, and the reserve for an unknown cost."""
    prices = Prices({"gpt-5*": Rates(input=1, output=2)})
    budget = Budget(proxy(*frames), limit="1 USD/day", prices=prices, reserve="0.05 USD")

    await connect(budget.app)

    assert budget.used == used


async def test_money_without_prices_is_charged_the_reserve_for_each_response() -> None:
    """A response over a WebSocket may have cost something, even if no price is known."""
    budget = Budget(proxy(done(3, 4), done(3, 4)), limit="1 USD/day", reserve="0.05 USD")

    await connect(budget.app)

    assert budget.used == 100_000


async def test_slots_are_released_when_the_connection_ends() -> None:
    """A limit of concurrent connections is not charged for responses."""
    slots = InFlight(2)
    tokens = Limiter(f"{LIMIT}/minute", clock=FakeClock())
    policies = [
        Policy(slots, name="slots", key=client),
        Policy(tokens, name="tokens", key=client, tokens=RESERVE),
    ]
    held: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await proxy(done(3, 4), done(5, 6))(scope, receive, send)
        held.append(slots.peek("client").remaining)

    await connect(
        ExchangeMiddleware(RateLimitMiddleware(app, policies=policies), websocket_usage=True)
    )

    assert (held, slots.peek("client").remaining) == ([1], 2)
    assert tokens.peek("client").remaining == LIMIT - 18


async def test_limiter_that_fails_does_not_keep_others_from_being_charged() -> None:
    """A failure is reported, and the other limits count the response."""

    class Failing(Limiter):
        def charge(self, *args: Any, **options: Any) -> None:
            raise RuntimeError("limiter")

    tokens, turns = Limiter(f"{LIMIT}/minute", clock=FakeClock()), Turns()
    policies = [
        Policy(Failing("100/minute"), name="failing", key=client, tokens=RESERVE),
        Policy(tokens, name="tokens", key=client, tokens=RESERVE),
    ]
    limited = RateLimitMiddleware(proxy(done(3, 4)), policies=policies)

    await connect(ExchangeMiddleware(limited, observers=[turns], websocket_usage=True))

    assert tokens.peek("client").remaining == LIMIT - 7
    assert "Reservations" in turns.errors


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_shared_limit_is_charged_when_the_connection_ends(
    redis: Server, anyio_backend: str
) -> None:
    """A storage is awaited once, at the end, for all responses of a connection."""
    limiter = SharedLimiter(f"{LIMIT}/minute", storage=f"redis://{redis.place}", timeout=PATIENCE)
    used: list[int] = []

    async def count() -> None:
        used.append(LIMIT - (await limiter.peek("client")).remaining)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await proxy(done(3, 4), done(300, 6))(scope, receive, send)
        await count()

    policy = Policy(limiter, name="tokens", key=client, tokens=RESERVE)
    limited = RateLimitMiddleware(app, policies=[policy])
    await connect(ExchangeMiddleware(limited, websocket_usage=True))
    await count()
    await limiter.aclose()

    assert used == [RESERVE, 313]


def by_dependency(pulse: TokenPulse, limit: Any) -> ASGIApp:
    """Return a gateway whose WebSocket has the limit as a dependency."""
    app = FastAPI()

    @app.websocket("/live", dependencies=[Depends(limit)])
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        for frame in (done(3, 4), done(300, 6)):
            await websocket.send_text(frame)
        await websocket.close()

    pulse.install(app)
    return app


def by_check(pulse: TokenPulse, limit: Any) -> ASGIApp:
    """Return a gateway that checks the limit for each message of a client."""
    app = FastAPI()

    @app.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        for frame in (done(3, 4), done(300, 6)):
            await pulse.check(websocket, limit)
            await websocket.send_text(frame)
        await websocket.close()

    pulse.install(app)
    return app


@pytest.mark.parametrize(
    ("gateway", "metered", "used"),
    [
        (by_dependency, True, 313),
        (by_dependency, False, RESERVE),
        # The limit counts each message itself, so its responses are not charged again.
        (by_check, True, 2 * RESERVE),
        (by_check, False, 2 * RESERVE),
    ],
)
def test_limit_at_a_route_is_charged_if_it_is_checked_before_the_connection_is_accepted(
    gateway: Callable[[TokenPulse, Any], ASGIApp], metered: bool, used: int
) -> None:
    """A limit for a route settles as one of the middleware; one for each message keeps its cost."""
    settings = Settings(limit=None, websocket_usage=metered, alerts=False)
    pulse = TokenPulse(settings=settings)
    limiter = Limiter(f"{LIMIT}/minute", clock=FakeClock())
    limit = pulse.limit(limiter, name="tokens", key=lambda request: "client", tokens=RESERVE)

    with TestClient(gateway(pulse, limit)) as http, http.websocket_connect("/live") as websocket:
        for _ in range(2):
            assert json.loads(websocket.receive_text())["response"]["id"] == "resp_1"

    assert limiter.peek("client").remaining == LIMIT - used

"""Reserves from the request."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tokenpulse_mw import (
    HttpMetrics,
    PlanLimiter,
    Policy,
    Prices,
    Providers,
    RateLimitMiddleware,
    Rates,
    Settings,
    TokenPulse,
    keys,
    reserve_from_request,
    tokens_from_request,
)

from ..support.apps import answering
from ..support.asgi import drive, http_scope

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logging_as_it_was")]

GPT_5 = Rates(input=1, output=10)
PRICES = Prices({"gpt-5": GPT_5, ("azure", "gpt-5"): Rates(input=1, output=20)})


def client(scope: object) -> str:
    """Return the same key for all requests."""
    return "client"


async def reserved(policy: Policy, body: Any, *, path: str = "/chat", app: Any = None) -> int:
    """Return what a request is charged, whose response has no usage: its reserve."""
    limiter: Any = policy.limiter
    if app is None:
        app = RateLimitMiddleware(answering(b""), policies=[policy])
    before = limiter.peek("client").remaining
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    messages: list[Any] = [
        {"type": "http.request", "body": text[:9], "more_body": True},
        {"type": "http.request", "body": text[9:], "more_body": False},
    ]
    await drive(app, http_scope(path, method="POST"), received=messages)
    return int(before - limiter.peek("client").remaining)


@pytest.mark.parametrize(
    ("body", "path", "micros"),
    [
        ({"model": "gpt-5", "max_tokens": 100_000}, "/chat", 1_000_000),
        ({"max_completion_tokens": 100_000, "messages": [], "model": "gpt-5"}, "/chat", 1_000_000),
        ({"model": "gpt-5", "max_output_tokens": 100_000}, "/azure/chat", 2_000_000),
        ({"max_tokens": 100_000}, "/openai/deployments/gpt-5/chat/completions", 1_000_000),
        ({"model": "gpt-5", "max_tokens": 1}, "/chat", 10_000),
        ({"model": "gpt-5"}, "/chat", 10_000),
        ({"model": "unknown", "max_tokens": 100_000}, "/chat", 10_000),
        (b"not JSON, but text", "/chat", 10_000),
        ({"model": "gpt-5", "max_tokens": 10**9}, "/chat", 20_000_000),
    ],
)
async def test_money_is_reserved_for_the_largest_response(
    body: Any, path: str, micros: int
) -> None:
    """That is the maximum of tokens at the model's price: a cent at least, the limit at most."""
    reserve = reserve_from_request(PRICES, providers=Providers(["openai", "azure"]))
    policy = Policy("20 USD/day", key=client, reserve=reserve)

    assert await reserved(policy, body, path=path) == micros


async def test_tokens_are_reserved_for_the_largest_response() -> None:
    """A request without a maximum reserves the default; none reserves more than the limit."""
    policy = Policy("10000/day", key=client, tokens=tokens_from_request(4000))

    assert await reserved(policy, {"max_tokens": 16}) == 16
    assert await reserved(policy, {"model": "gpt-5"}) == 4000
    policy.limiter.clear()
    assert await reserved(policy, {"max_tokens": 10**9}) == 10_000


async def test_requests_that_reach_no_model_are_not_read() -> None:
    """The body of a GET request, if there is one, is left to the application."""
    policy = Policy("20 USD/day", key=client, reserve=reserve_from_request(PRICES))
    app = RateLimitMiddleware(answering(b""), policies=[policy])
    sent: list[Any] = []

    async def receive() -> Any:
        pytest.fail("the middleware must not read the body")

    async def send(message: Any) -> None:
        sent.append(message)

    await app(http_scope(method="GET"), receive, send)

    assert sent[0]["status"] == 200


async def test_plans_reserve_the_largest_response() -> None:
    """The limit of a plan is not known when the reserve is computed."""
    plans = PlanLimiter({"client": "20 USD/day"})
    policy = Policy(plans, key=client, reserve=reserve_from_request(PRICES))

    assert await reserved(policy, {"model": "gpt-5", "max_tokens": 100_000}) == 1_000_000
    assert await reserved(policy, {"model": "gpt-5", "max_tokens": 10**9}) == 0


async def test_request_to_a_model_without_a_price_can_be_refused() -> None:
    """The function returns None, which `on_missing_cost="refuse"` rejects."""
    policy = Policy(
        "20 USD/day", key=client, reserve=reserve_from_request(PRICES), on_missing_cost="refuse"
    )

    assert await reserved(policy, {"model": "unknown", "max_tokens": 9}) == 0
    assert await reserved(policy, {"model": "gpt-5", "max_tokens": 9}) == 10_000


async def test_middleware_inside_of_another_one_reads_the_tokens() -> None:
    """The outer one has read only the model, and both see the same body."""
    policy = Policy("20 USD/day", key=client, reserve=reserve_from_request(PRICES))
    inner = RateLimitMiddleware(answering(b""), policies=[policy])
    outer = RateLimitMiddleware(inner, limit="5/minute", key=keys.model())

    body = {"model": "gpt-5", "max_tokens": 100_000}
    assert await reserved(policy, body, app=outer) == 1_000_000


def gateway(*policies: Policy, **options: Any) -> TokenPulse:
    """Return a gateway without a price list."""
    return TokenPulse(
        settings=Settings(price_list="off"),
        metrics=HttpMetrics(CollectorRegistry()),
        policies=policies,
        **options,
    )


async def test_gateway_with_prices_reserves_the_largest_response() -> None:
    """A limit of money without a reserve needs no function; an explicit reserve stays."""
    budget = Policy("20 USD/day", name="budget", key=client)
    fixed = Policy("20 USD/day", name="fixed", key=client, reserve=Decimal("0.05"))
    requests = Policy("20/day", name="requests", key=client)
    app = gateway(budget, fixed, requests, prices={"gpt-5": GPT_5}).wrap(answering(b""))

    body = {"model": "gpt-5", "max_tokens": 100_000}
    assert await reserved(budget, body, app=app) == 1_000_000
    assert await reserved(fixed, body, app=app) == 50_000
    assert await reserved(requests, body, app=app) == 1


async def test_gateway_without_prices_reserves_a_cent() -> None:
    """The reserve is that of the policy alone."""
    budget = Policy("20 USD/day", name="budget", key=client)
    app = gateway(budget).wrap(answering(b""))

    assert await reserved(budget, {"model": "gpt-5", "max_tokens": 100_000}, app=app) == 10_000


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "policies that count USD (budget, 5-USD-per-day) charge the reserve"),
        ({"prices": {"gpt-5": GPT_5}}, None),
    ],
)
async def test_start_warns_of_budgets_without_prices(
    options: dict[str, Any], names: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the limits and says how to fix it."""
    policies = Policy("20 USD/day", name="budget"), Policy("9/day")
    pulse = gateway(*policies, **options)
    pulse.limit("5 USD/day")
    async with pulse.lifespan():
        pass

    warnings = [line for line in caplog.messages if line.startswith("no prices: ")]
    assert len(warnings) == (names is not None)
    if names is not None:
        assert names in warnings[0]
        assert "give prices= to TokenPulse" in warnings[0]
        assert "pip install 'tokenpulse-mw[cost]'" in warnings[0]


async def test_gateway_without_budgets_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    """Prices are needed for limits of money only."""
    async with gateway(Policy("9/day")).lifespan():
        pass

    assert "no prices: " not in caplog.text


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (reserve_from_request, {"prices": {}}, "prices must be Prices"),
        (reserve_from_request, {"prices": PRICES, "providers": []}, "providers must be Providers"),
        (tokens_from_request, {"default": 0}, "default must be an integer"),
        (Policy, {"limit": "5 USD/day", "reserve": reserve_from_request}, "uncalled factory"),
    ],
)
async def test_invalid_argument_is_rejected(
    function: Any, arguments: dict[str, Any], message: str
) -> None:
    """The message names the argument."""
    with pytest.raises(ValueError, match=message):
        function(**arguments)

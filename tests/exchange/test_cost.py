"""Cost of a response: as reported, or estimated by prices."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, HttpMetrics, Prices, Rates, annotate

from ..support.apps import answering, streaming
from ..support.asgi import drive, http_scope

PRICES = Prices({"gpt-5": Rates(input=1, output=10)})
USAGE = {"prompt_tokens": 100, "completion_tokens": 20}


def body(**fields: Any) -> bytes:
    """Return the response of a model."""
    return json.dumps({"model": "gpt-5", "usage": USAGE, **fields}).encode()


async def exchange_of(app: ASGIApp, *, prices: Prices | None = PRICES, **options: Any) -> Exchange:
    """Return the exchange of a POST request."""
    seen: list[Exchange] = []
    middleware = ExchangeMiddleware(app, observers=[seen.append], prices=prices)
    await drive(middleware, http_scope(method="POST"), **options)
    return seen[0]


def cost(exchange: Exchange) -> tuple[int | None, str | None, bool]:
    """Return the cost of an exchange, its source, and whether it is a minimum."""
    return exchange.cost_nanos, exchange.cost_source, exchange.cost_is_minimum


@pytest.mark.anyio
async def test_cost_is_estimated_by_the_prices() -> None:
    """100 tokens at a dollar and 20 at ten dollars per million cost 300 micro-dollars."""
    assert cost(await exchange_of(answering(body()))) == (300_000, "estimated", False)


@pytest.mark.anyio
@pytest.mark.parametrize("prices", [PRICES, None])
async def test_reported_cost_precedes_the_prices(prices: Prices | None) -> None:
    """The figure of the vendor is exact, and needs no price."""
    app = answering(body(usage={**USAGE, "cost": 0.0123}))

    assert cost(await exchange_of(app, prices=prices)) == (12_300_000, "reported", False)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0.0005", (500_000, "reported", False)),
        (b"0.0", (300_000, "estimated", False)),  # LiteLLM writes it for an unknown price
        (b"free", (300_000, "estimated", False)),
        (b"-1", (300_000, "estimated", False)),
    ],
)
async def test_cost_in_a_header_of_litellm_is_used(value: bytes, expected: object) -> None:
    """A gateway in front of the vendor knows the price; an invalid value is ignored."""
    app = answering(
        body(),
        headers=[(b"X-LiteLLM-Response-Cost", value)],
    )

    assert cost(await exchange_of(app)) == expected


@pytest.mark.anyio
@pytest.mark.parametrize("dollars", ["0.25", Decimal("0.25"), 0.25], ids=repr)
async def test_annotated_cost_precedes_every_other_source(dollars: Any) -> None:
    """The application may have prices of its own, such as those of a contract."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, cost=dollars)
        await answering(body(usage={**USAGE, "cost": 1}))(scope, receive, send)

    assert cost(await exchange_of(app)) == (250_000_000, "reported", False)


@pytest.mark.anyio
@pytest.mark.parametrize("dollars", [-1, "ten", float("nan"), 10_001, True])
async def test_invalid_annotated_cost_is_reported_and_ignored(
    dollars: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid cost does not fail the request, and the next source is used."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, cost=dollars)
        await answering(body())(scope, receive, send)

    assert cost(await exchange_of(app)) == (300_000, "estimated", False)
    assert "annotate failed with ImplausibleCostError" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    "content", [body(model="unpriced"), json.dumps({"object": "chat.completion"}).encode()]
)
async def test_unknown_cost_is_missing_and_not_0(content: bytes) -> None:
    """Neither a model without a price nor a response without usage is free."""
    exchange = await exchange_of(answering(content), prices=PRICES)

    if exchange.usage_source is None:
        assert cost(exchange) == (None, None, False)
    else:
        assert cost(exchange) == (None, "missing", False)


@pytest.mark.anyio
async def test_response_that_is_no_model_has_no_cost() -> None:
    """Only responses of models are priced."""
    assert cost(await exchange_of(answering(b'{"status":"ok"}'))) == (None, None, False)


@pytest.mark.anyio
async def test_cost_without_prices_is_unknown() -> None:
    """Without prices, a cost that is not reported is not counted as missing."""
    assert cost(await exchange_of(answering(body()), prices=None)) == (None, None, False)


@pytest.mark.anyio
async def test_cost_of_partial_usage_is_a_minimum() -> None:
    """A stream that ends early has used more than the vendor has reported so far."""
    message = {"model": "gpt-5", "usage": {"input_tokens": 100, "output_tokens": 0}}
    start = f"data: {json.dumps({'type': 'message_start', 'message': message})}\n\n".encode()
    app = streaming([start], ends=False)

    exchange = await exchange_of(app)

    assert exchange.usage_source == "partial"
    assert cost(exchange) == (100_000, "estimated", True)


@pytest.mark.anyio
async def test_cost_of_a_response_without_usage_is_missing() -> None:
    """Prices need the tokens of the response."""
    content = json.dumps({"model": "gpt-5", "choices": [{"message": {"content": "Hi"}}]})

    assert cost(await exchange_of(answering(content.encode()))) == (None, "missing", False)


@pytest.mark.anyio
async def test_cost_of_no_tokens_is_a_minimum() -> None:
    """Every response has tokens: a gateway that reports none has not counted them."""
    app = answering(body(usage={"prompt_tokens": 0, "completion_tokens": 0}))

    assert cost(await exchange_of(app)) == (0, "estimated", True)


@pytest.mark.anyio
async def test_failing_prices_affect_only_the_cost(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the price list is counted, and the exchange is delivered."""

    class Broken(Prices):
        def cost(self, *arguments: Any) -> Any:
            raise KeyError("price")

    seen: list[Exchange] = []
    app = ExchangeMiddleware(
        answering(body()),
        observers=[seen.append, metrics],
        prices=Broken({"a": Rates(input=1, output=1)}),
    )
    await drive(app, http_scope(method="POST"))

    assert cost(seen[0]) == (None, "missing", False)
    assert metrics.registry.get_sample_value(
        "tokenpulse_internal_errors_total", {"component": "cost"}
    )
    assert "cost failed with KeyError" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (10_000, (10**13, "estimated", False)),
        (10_001, (None, "missing", False)),
    ],
)
async def test_implausible_estimate_is_missing(tokens: int, expected: object) -> None:
    """No response costs more than 10,000 dollars, so that sums fit in the columns of a store."""
    prices = Prices({"gpt-5": Rates(input=1_000_000, output=0)})
    app = answering(body(usage={"prompt_tokens": tokens, "completion_tokens": 1}))

    assert cost(await exchange_of(app, prices=prices)) == expected


@pytest.mark.anyio
async def test_inner_middleware_adds_its_prices() -> None:
    """Stacked middlewares share one recorder and its options."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(answering(body()), prices=PRICES)
    await drive(ExchangeMiddleware(inner, observers=[seen.append]), http_scope(method="POST"))

    assert cost(seen[0]) == (300_000, "estimated", False)


def test_prices_must_be_prices() -> None:
    """A plain table is rejected, since it is not validated."""
    with pytest.raises(ValueError, match=r"prices must be Prices\(...\), got"):
        ExchangeMiddleware(answering(b""), prices={})  # type: ignore[arg-type]

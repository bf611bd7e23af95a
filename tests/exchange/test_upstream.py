"""Rate limits of providers, as their responses report them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import (
    Exchange,
    ExchangeMiddleware,
    HttpMetrics,
    Policy,
    Providers,
    RateLimitMiddleware,
    annotate,
    keys,
)
from tokenpulse_mw.exchange import QuotaPool, UpstreamQuota, UpstreamQuotas
from tokenpulse_mw.exchange.upstream import parse_quotas

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z

OPENAI = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1999981",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "6m0s",
}
GROQ = {
    "x-ratelimit-limit-requests": "14400",
    "x-ratelimit-limit-tokens": "18000",
    "x-ratelimit-remaining-requests": "14370",
    "x-ratelimit-remaining-tokens": "17997",
    "x-ratelimit-reset-requests": "2m59.56s",
    "x-ratelimit-reset-tokens": "7.66s",
}
AZURE = {
    "x-ratelimit-remaining-requests": "4",
    "x-ratelimit-remaining-tokens": "1200",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:02Z",
    "anthropic-ratelimit-input-tokens-limit": "50000",
    "anthropic-ratelimit-input-tokens-remaining": "50000",
    "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:00:00Z",
    "anthropic-ratelimit-output-tokens-limit": "10000",
    "anthropic-ratelimit-output-tokens-remaining": "9000",
    "anthropic-ratelimit-output-tokens-reset": "2027-01-15T09:01:00+01:00",
}
LITELLM = {
    "x-ratelimit-remaining-requests": "9223372036854775807",
    "x-ratelimit-limit-requests": "9223372036854775807",
    "llm_provider-x-ratelimit-limit-requests": "100",
    "llm_provider-x-ratelimit-remaining-requests": "60",
}


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI has them."""
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def parse(headers: dict[str, str]) -> tuple[list[UpstreamQuota], bool]:
    """Return the quotas, and whether a header is invalid."""
    quotas, is_invalid = parse_quotas(raw(headers), wall=lambda: NOW)
    return list(quotas), is_invalid


def requests(remaining: str, limit: str = "100", reset: str | None = None) -> dict[str, str]:
    """Return the headers of a limit of requests."""
    headers = {
        "x-ratelimit-limit-requests": limit,
        "x-ratelimit-remaining-requests": remaining,
    }
    return headers if reset is None else {**headers, "x-ratelimit-reset-requests": reset}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (OPENAI, [("requests", 9999, 10000, 0.006), ("tokens", 1999981, 2000000, 360.0)]),
        (GROQ, [("requests", 14370, 14400, 179.56), ("tokens", 17997, 18000, 7.66)]),
        (AZURE, [("requests", 4, None, None), ("tokens", 1200, None, None)]),
        (
            ANTHROPIC,
            [
                ("requests", 49, 50, 2.0),
                ("tokens", 50000, 50000, 0.0),
                ("tokens", 9000, 10000, 60.0),
            ],
        ),
        (LITELLM, [("requests", 60, 100, None)]),
        ({"X-RateLimit-Remaining-Requests": " 7 "}, [("requests", 7, None, None)]),
        ({"x-ratelimit-limit-requests": "7"}, []),
        ({"x-ratelimit-limit-req-minute": "7", "content-type": "text/plain"}, []),
        ({}, []),
    ],
    ids=["openai", "groq", "azure", "anthropic", "litellm", "case", "limit", "others", "none"],
)
def test_headers_of_each_vendor_are_read(
    headers: dict[str, str], expected: list[tuple[Any, ...]]
) -> None:
    """LiteLLM's own limits are not those of the provider, which it forwards with a prefix."""
    quotas, is_invalid = parse(headers)

    assert not is_invalid
    assert [quota._replace(reset_after=None) for quota in quotas] == [
        UpstreamQuota(unit, remaining, limit, None) for unit, remaining, limit, _ in expected
    ]
    assert [quota.reset_after for quota in quotas] == [
        reset if reset is None else pytest.approx(reset) for *_, reset in expected
    ]


@pytest.mark.parametrize(
    "headers",
    [
        requests("many"),
        requests(""),
        requests("-1"),
        requests("1.5"),
        requests("1e3"),
        requests("٣"),
        requests("101"),
        requests("9223372036854775807", "9223372036854775807"),
        requests("9223372036854775807"),
        requests("0", "0"),
        requests("5", "unlimited"),
        requests("5", reset="soon"),
        requests("5", reset=""),
        requests("5", reset="2027-01-15T08:00:02"),
        requests("5", reset="999999999d"),
        requests("5", reset="9" * 15),
        {"x-ratelimit-remaining-tokens": "1" * 16},
    ],
    ids=str,
)
def test_invalid_header_is_ignored_and_reported(headers: dict[str, str]) -> None:
    """No number, more than its own limit, or a reset that is not a time."""
    assert parse(headers) == ([], True)


def test_invalid_limit_does_not_hide_the_other_one() -> None:
    """Each limit is judged on its own."""
    quotas, is_invalid = parse({**OPENAI, "x-ratelimit-remaining-tokens": "NaN"})

    assert ([quota.unit for quota in quotas], is_invalid) == (["requests"], True)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([name.encode() for name in {**OPENAI, **ANTHROPIC, **LITELLM}]),
            st.one_of(st.binary(max_size=12), st.integers(-5, 10**6).map(lambda n: b"%d" % n)),
        )
    )
)
def test_any_values_give_plausible_quotas(headers: list[tuple[bytes, bytes]]) -> None:
    """For any values, the numbers are in range and nothing is raised."""
    quotas, _ = parse_quotas(headers, wall=lambda: NOW)

    for quota in quotas:
        assert 0 <= quota.remaining <= (10**15 if quota.limit is None else quota.limit)
        assert quota.reset_after is None or 0 <= quota.reset_after <= 31 * 86_400


async def respond(
    quotas: UpstreamQuotas, headers: dict[str, str], *observers: Any, **facts: Any
) -> Exchange:
    """Return the exchange of a response with these headers and annotations."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **{"provider": "openai", **facts})
        await answering(headers=raw(headers))(scope, receive, send)

    middleware = ExchangeMiddleware(
        app, observers=[seen.append, *observers], provider=Providers(["openai"]), quotas=quotas
    )
    await drive(middleware, http_scope("/v1/chat", method="POST"))
    return seen[0]


@pytest.mark.anyio
async def test_exchange_has_the_quotas_of_its_response(clock: FakeClock) -> None:
    """Observers get them, and the last known state is kept by provider and unit."""
    quotas = UpstreamQuotas(clock=clock)

    exchange = await respond(quotas, AZURE, credential="c1", credential_group="prod", model="gpt")

    assert exchange.upstream == (
        UpstreamQuota("requests", 4, None, None),
        UpstreamQuota("tokens", 1200, None, None),
    )
    assert quotas.lowest()["openai", "requests"] == QuotaPool(
        "openai", "c1", "prod", "gpt", "requests", 4, None, None
    )


@pytest.mark.anyio
async def test_invalid_header_is_counted_once_a_response(metrics: HttpMetrics) -> None:
    """The response is sent as it is, and the component is `upstream_quota`."""
    quotas = UpstreamQuotas()
    bad = {**requests("9223372036854775807"), "x-ratelimit-remaining-tokens": "many"}

    await respond(quotas, bad, metrics)

    assert list(quotas.pools()) == []
    count = metrics.registry.get_sample_value(
        "tokenpulse_internal_errors_total", {"component": "upstream_quota"}
    )
    assert count == 1


@pytest.mark.anyio
async def test_failure_of_the_registry_does_not_fail_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The exchange still has its quotas."""

    def broken() -> float:
        raise RuntimeError("no clock")

    exchange = await respond(UpstreamQuotas(clock=broken), AZURE)

    assert (exchange.status, len(exchange.upstream)) == (200, 2)
    assert "upstream_quota failed with RuntimeError" in caplog.text


@pytest.mark.anyio
async def test_limits_of_the_gateway_are_not_those_of_a_provider() -> None:
    """Headers that our own limit adds are not read, neither with a response nor a rejection."""
    quotas = UpstreamQuotas()
    policy = Policy("1/minute", key=keys.client_address())
    limited = RateLimitMiddleware(answering(), policies=[policy], headers="openai")
    app = ExchangeMiddleware(limited, quotas=quotas)

    answers = [await drive(app, http_scope("/chat", method="POST")) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 429]
    assert all("x-ratelimit-remaining-requests" in answer.headers for answer in answers)
    assert list(quotas.pools()) == []


@pytest.mark.parametrize("dialect", ["openai", "legacy", "draft-11"])
@pytest.mark.anyio
async def test_headers_of_the_provider_are_read_before_ours_replace_them(dialect: Any) -> None:
    """Clients see the limits of the gateway, and the gateway those of the provider."""
    quotas = UpstreamQuotas()
    policies = [Policy("9/minute", key=keys.client_address())]
    app = RateLimitMiddleware(
        RateLimitMiddleware(answering(headers=raw(OPENAI)), policies=policies, headers=dialect),
        policies=[Policy("8/minute", key=keys.client_address())],
        headers=dialect,
    )

    await drive(ExchangeMiddleware(app, quotas=quotas), http_scope(method="POST"))

    assert sorted(pool.remaining for pool in quotas.pools()) == [9999, 1999981]


@pytest.mark.anyio
async def test_stacked_middlewares_both_get_the_quotas() -> None:
    """The inner one joins the recorder of the outer one."""
    outer, inner = UpstreamQuotas(), UpstreamQuotas()
    app = ExchangeMiddleware(answering(headers=raw(OPENAI)), quotas=inner)

    await drive(ExchangeMiddleware(app, quotas=outer), http_scope(method="POST"))

    assert len(list(outer.pools())) == len(list(inner.pools())) == 2


def finished(*quotas: UpstreamQuota, **fields: Any) -> Exchange:
    """Return an exchange with quotas."""
    return Exchange("POST", 0.0, provider="openai", upstream=quotas, **fields)


def remaining(quotas: UpstreamQuotas) -> list[int]:
    """Return what is left of each limit."""
    return [pool.remaining for pool in quotas.pools()]


def test_lowest_limit_of_a_provider_is_the_smallest_share(clock: FakeClock) -> None:
    """Limits by model and credential differ, and an unknown limit is used only if it is alone."""
    quotas = UpstreamQuotas(clock=clock)
    for model, left, limit in (("a", 50, 1000), ("b", 20, 100), ("c", 1, None)):
        quotas.add(finished(UpstreamQuota("tokens", left, limit, None), model=model))

    lowest = quotas.lowest()["openai", "tokens"]
    assert (lowest.model, lowest.remaining, lowest.share) == ("a", 50, 0.05)

    quotas.add(finished(UpstreamQuota("tokens", 0, None, None), model="c"))
    assert quotas.lowest()["openai", "tokens"].share == 0.0


def test_tightest_of_several_limits_of_one_unit_counts(clock: FakeClock) -> None:
    """Anthropic limits input and output tokens separately."""
    quotas = UpstreamQuotas(clock=clock)

    quotas.add(
        finished(
            UpstreamQuota("tokens", 90, 100, None),
            UpstreamQuota("requests", 5, 10, None),
            UpstreamQuota("tokens", 10, 100, None),
        )
    )

    assert sorted(remaining(quotas)) == [5, 10]


def test_limit_of_a_429_is_replaced_by_that_of_the_next_response(clock: FakeClock) -> None:
    """A 429 names no model, and the reset of a daily limit may be a day away."""
    quotas = UpstreamQuotas(clock=clock)
    quotas.add(finished(UpstreamQuota("requests", 0, 200, 86_000.0)))
    quotas.add(finished(UpstreamQuota("requests", 40, 500, 60.0), model="b"))
    assert remaining(quotas) == [0, 40]  # another limit

    quotas.add(finished(UpstreamQuota("requests", 100, 200, 43_000.0), model="a"))

    assert remaining(quotas) == [40, 100]


def test_limit_without_a_size_at_its_end_is_the_tightest_of_its_unit(clock: FakeClock) -> None:
    """Nothing is left of it, so its share is 0."""
    quotas = UpstreamQuotas(clock=clock)

    quotas.add(
        finished(UpstreamQuota("tokens", 10, 100, None), UpstreamQuota("tokens", 0, None, None))
    )

    assert remaining(quotas) == [0]


def test_whole_limit_is_available_after_its_reset(clock: FakeClock) -> None:
    """The last response before a pause must not look like a limit that stays used up."""
    quotas = UpstreamQuotas(clock=clock)
    quotas.add(finished(UpstreamQuota("requests", 2, 100, 20.0)))

    clock.advance(15)
    (pool,) = quotas.pools()
    assert (pool.remaining, pool.resets_in) == (2, 5.0)
    clock.advance(5)
    (pool,) = quotas.pools()
    assert (pool.remaining, pool.resets_in) == (100, 0.0)


def test_limit_without_a_size_is_unknown_after_its_reset(clock: FakeClock) -> None:
    """No number is known then."""
    quotas = UpstreamQuotas(clock=clock)
    quotas.add(finished(UpstreamQuota("requests", 2, None, 20.0)))

    clock.advance(20)

    assert remaining(quotas) == []


def test_limit_is_forgotten_after_five_minutes_or_its_reset(clock: FakeClock) -> None:
    """A daily limit is known until five minutes after its reset."""
    quotas = UpstreamQuotas(clock=clock)
    quotas.add(finished(UpstreamQuota("requests", 2, 100, None)))
    quotas.add(finished(UpstreamQuota("tokens", 3, 100, 7200.0)))

    clock.advance(300)
    assert remaining(quotas) == [2, 3]
    clock.advance(1)
    assert remaining(quotas) == [3]
    clock.advance(7199)
    assert remaining(quotas) == [100]
    clock.advance(1)
    assert remaining(quotas) == []


def test_entries_are_bounded_and_the_oldest_is_evicted(clock: FakeClock) -> None:
    """A response renews its entry."""
    quotas = UpstreamQuotas(clock=clock)
    for number in range(1000):
        quotas.add(finished(UpstreamQuota("requests", 1, 100, None), model=str(number)))
    quotas.add(finished(UpstreamQuota("requests", 1, 100, None), model="0"))

    quotas.add(finished(UpstreamQuota("requests", 1, 100, None), model="new"))

    models = [pool.model for pool in quotas.pools()]
    assert len(models) == 1000
    assert (models[0], models[-2:]) == ("2", ["0", "new"])
    quotas.clear()
    assert remaining(quotas) == []

"""RateLimitMiddleware with several policies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Scope

from tokenpulse_mw import (
    ExchangeMiddleware,
    HttpMetrics,
    Limiter,
    Policy,
    RateLimitMiddleware,
    problem_details,
    requests_to,
)

from ..support.apps import answering
from ..support.asgi import Answer, drive, http_scope
from ..support.clock import FakeClock


class Gateway:
    """Application with limits by address, by API key, and of expensive requests."""

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
        """Return the remaining requests of the client at 192.0.2.1 with the key "k"."""
        return [
            self.by_address.peek("192.0.2.1").remaining,
            self.by_key.peek("k").remaining,
            self.for_chat.peek("k").remaining,
        ]

    async def send(self, method: str = "POST", path: str = "/v1/chat/completions") -> Answer:
        """Send a request of the client at 192.0.2.1 with the key "k"."""
        scope = http_scope(path, method=method, headers=[(b"x-api-key", b"k")])
        return await drive(self.app, scope)


def api_key(scope: Scope) -> str | None:
    """Return the API key of a request."""
    return dict(scope["headers"]).get(b"x-api-key", b"").decode() or None


@pytest.mark.anyio
async def test_policy_counts_only_requests_it_applies_to(clock: FakeClock) -> None:
    """The headers list the policies that apply to the request."""
    gateway = Gateway(clock)

    chat = await gateway.send()
    assert gateway.left == [5, 3, 1]
    assert chat.headers["ratelimit-policy"] == (
        '"address";q=6;w=60,"key";q=4;w=3600,"chat";q=2;w=86400'
    )
    assert chat.headers["ratelimit"] == '"address";r=5;t=60,"key";r=3;t=3600,"chat";r=1;t=86400'
    other = await gateway.send("GET", "/v1/models")
    assert gateway.left == [4, 2, 1]
    assert other.headers["ratelimit"] == '"address";r=4;t=60,"key";r=2;t=3600'
    anonymous = await drive(gateway.app)
    assert gateway.left == [3, 2, 1]
    assert anonymous.headers["ratelimit"] == '"address";r=3;t=60'


@pytest.mark.anyio
async def test_rejection_by_one_policy_consumes_nothing_of_the_others(clock: FakeClock) -> None:
    """Requests that the rejecting policy does not apply to are still allowed."""
    gateway = Gateway(clock, respond=problem_details)
    for _ in range(2):
        await gateway.send()
    before = gateway.left

    rejections = [await gateway.send() for _ in range(5)]

    assert [response.status for response in rejections] == [429] * 5
    assert gateway.left == before == [4, 2, 0]
    assert rejections[0].headers["retry-after"] == "86400"
    assert rejections[0].headers["ratelimit"] == (
        '"address";r=4;t=60,"key";r=2;t=3600,"chat";r=0;t=86400'
    )
    assert (await gateway.send("GET", "/v1/models")).status == 200


@pytest.mark.anyio
async def test_response_states_the_longest_wait_of_all_rejections(clock: FakeClock) -> None:
    """After this wait all policies allow the request; problem details list all violated ones."""
    gateway = Gateway(clock, respond=problem_details)
    for method in ("POST", "POST", "GET", "GET"):
        await gateway.send(method)

    both = await gateway.send()
    one = await gateway.send("GET")

    assert json.loads(both.body)["violated-policies"] == ["chat", "key"]
    assert json.loads(one.body)["violated-policies"] == ["key"]
    assert [both.headers["retry-after"], one.headers["retry-after"]] == ["86400", "3600"]
    clock.advance(int(both.headers["retry-after"]))
    assert (await gateway.send()).status == 200


@pytest.mark.anyio
async def test_policy_in_shadow_mode_is_only_counted(metrics: HttpMetrics) -> None:
    """The metrics count its decisions as shadow; neither status nor headers show it."""
    policies = [Policy("3/day", name="old"), Policy("1/day", name="new", enforce=False)]
    app = RateLimitMiddleware(answering(), policies=policies, respond=problem_details)
    app_and_metrics = ExchangeMiddleware(app, observers=[metrics])

    responses = [await drive(app_and_metrics) for _ in range(4)]

    assert [response.status for response in responses] == [200, 200, 200, 429]
    assert json.loads(responses[3].body)["violated-policies"] == ["old"]
    assert responses[3].headers["ratelimit"].startswith('"old";r=0;')
    assert "new" not in responses[3].headers["ratelimit"]
    counted = metrics.registry.get_sample_value(
        "tokenpulse_rate_limit_decisions_total", {"policy": "new", "decision": "shadow"}
    )
    assert counted == 3


@pytest.mark.anyio
async def test_cost_of_a_request_is_a_number_or_a_function() -> None:
    """A rejected request costs nothing."""

    def price(scope: Scope) -> int:
        return 3 if scope["method"] == "POST" else 0

    app = RateLimitMiddleware(
        answering(),
        policies=[
            Policy("10/day", name="fixed", cost=2, key=api_key),
            Policy("7/day", name="priced", cost=price, key=lambda scope: "all"),
        ],
    )
    all_headers = [
        (await drive(app, http_scope(method=method, headers=[(b"x-api-key", b"k")]))).headers
        for method in ("POST", "GET", "POST", "POST")
    ]

    assert [headers["ratelimit"].split(";t=")[0] for headers in all_headers] == [
        '"fixed";r=8',
        '"fixed";r=6',
        '"fixed";r=4',
        '"fixed";r=4',
    ]
    assert [headers["ratelimit"].split(",")[1].split(";t=")[0] for headers in all_headers] == [
        '"priced";r=4',
        '"priced";r=4',
        '"priced";r=1',
        '"priced";r=1',
    ]


ONE = Limiter("5/day")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"limit": "5/minute"}, "give either policies, or limit, key and limiter, not"),
        ({"key": api_key}, "give either policies, or limit, key and limiter, not both"),
        ({"limiter": ONE}, "give either policies, or limit, key and limiter, not both"),
        ({"policies": []}, "policies must not be empty"),
        ({"policies": ["5/day"]}, "policies must be a list of Policy, got '5/day' among them"),
        ({"policies": Policy("5/day")}, "policies must be a list of Policy, got <"),
        ({"policies": "5/day"}, "policies must be a list of Policy, got '5/day'"),
        ({"enforce": "no"}, "enforce must be True or False, got 'no'"),
        ({"policies": [Policy("5/day"), Policy("6/day")]}, "every policy must have a unique name"),
        (
            {"policies": [Policy(ONE, name="a"), Policy(ONE, name="b")]},
            "every policy must have its own limiter, got the same limiter twice in .'a', 'b'.",
        ),
    ],
)
def test_contradicting_options_are_rejected(options: dict[str, Any], error: str) -> None:
    """The error names the parameters and the values it got."""
    with pytest.raises(ValueError, match=error):
        RateLimitMiddleware(answering(), **{"policies": [Policy("5/day")], **options})


def test_policies_may_be_a_generator() -> None:
    """The middleware reads the policies once, and its attribute `policies` lists them."""
    policies = [Policy("5/day", name=name) for name in ("a", "b")]

    app = RateLimitMiddleware(answering(), policies=(policy for policy in policies))

    assert app.policies == policies
    assert app.policies[0].limiter is policies[0].limiter

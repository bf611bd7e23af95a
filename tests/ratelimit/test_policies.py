"""Several policies on one application."""

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
    assert "new" not in answers[3].headers["ratelimit"]  # a trial is not for clients to see
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
            "every policy must have its own limiter, got a repeated one in .'a', 'b'.",
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
    assert app.policies[0].limiter is policies[0].limiter

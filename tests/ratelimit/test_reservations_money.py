"""Money: reserved before a request, and settled with its cost when the response ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from tokenpulse_mw import (
    Exchange,
    ExchangeMiddleware,
    InFlight,
    Limiter,
    PlanLimiter,
    Policy,
    RateLimitMiddleware,
    SharedLimiter,
    TokenUsage,
    ZoneLimiter,
    anthropic_error,
    openai_error,
    problem_details,
    too_many_requests,
)
from tokenpulse_mw.ratelimit.policy import Charge, ChargeResult
from tokenpulse_mw.ratelimit.policy_set import PolicySet
from tokenpulse_mw.ratelimit.reservations import Reservations

from ..support.apps import answering, streaming_until_disconnect
from ..support.asgi import Answer, drive, http_scope
from ..support.clock import FakeClock

DOLLAR = 1_000_000
RESERVE = DOLLAR // 20


def client(scope: Scope) -> str:
    """Return the same key for all requests."""
    return "client"


class Budget:
    """Budget of a client whose requests a test begins and ends.

    Args:
        limit: Limit of money.
        options: Options of the policy.
    """

    def __init__(self, limit: str = "20 USD/day", **options: Any) -> None:
        self.limiter = Limiter(limit, clock=FakeClock())
        self.policy = Policy(self.limiter, name="budget", key=client, **options)
        self._set = PolicySet([self.policy], enforce=True, on_decision=None)

    @property
    def used(self) -> int:
        """Return the micro-dollars that are used or reserved."""
        return self.limiter.limit - self.limiter.peek("client", 0).remaining

    def begin(self, **scope: Any) -> Reservations | None:
        """Begin a request, and return what it holds; None if it is rejected."""
        return self._set.evaluate({**http_scope("/v1/chat", method="POST"), **scope}, None)[2]

    def charge_of(self, **exchange: Any) -> int:
        """Return the charge for one request that ends as `exchange`."""
        before, reservations = self.used, self.begin()
        assert reservations is not None
        fields: dict[str, Any] = {"method": "POST", "status": 200, **exchange}
        reservations.finished(Exchange(started=0.0, **fields))
        return self.used - before


USAGE = TokenUsage(input=10, output=5)
COMPLETE = {"usage": USAGE, "usage_source": "reported", "cost_source": "estimated"}


@pytest.mark.parametrize(
    ("exchange", "charge"),
    [
        ({**COMPLETE, "cost_nanos": 12_000_001}, 12_001),
        ({**COMPLETE, "cost_nanos": 0}, 0),
        ({**COMPLETE, "cost_nanos": 9 * 10**9, "cost_source": "reported"}, 9 * DOLLAR),
        ({**COMPLETE, "cost_nanos": 1000, "cost_is_minimum": True}, RESERVE),
        ({**COMPLETE, "cost_nanos": 1000, "usage_source": "partial", "status": 200}, RESERVE),
        ({**COMPLETE, "cost_nanos": 1000, "usage_doubtful": True}, RESERVE),
        ({**COMPLETE, "cost_nanos": 10**9, "usage_source": "partial"}, DOLLAR),
        (
            {**COMPLETE, "cost_nanos": 15 * 10**7, "usage_source": "partial", "events": 100},
            DOLLAR,  # ten tokens of input, and one of output for each event after the tenth
        ),
        (
            {"usage_source": "partial", "usage": TokenUsage(), "cost_nanos": 9, "events": 100},
            RESERVE,
        ),
        ({**COMPLETE, "cost_source": "missing"}, RESERVE),
        ({**COMPLETE, "cost_source": "missing", "method": "GET"}, RESERVE),
        ({**COMPLETE, "cost_nanos": -5, "cost_source": "missing"}, RESERVE),
        ({"outcome": "client_disconnect", "status": 499}, RESERVE),
        ({"outcome": "client_disconnect"}, RESERVE),
        ({}, RESERVE),
        ({"method": "GET"}, 0),
        ({"status": 500}, 0),
        ({"status": 400}, 0),
    ],
)
def test_cost_replaces_the_reserve(exchange: dict[str, Any], charge: int) -> None:
    """A partial, doubtful or missing cost, as after a hang-up, is charged at least the reserve."""
    assert Budget(reserve="0.05 USD").charge_of(**exchange) == charge


def test_missing_cost_can_be_free() -> None:
    """With `on_missing_cost="allow"`, a model without a price costs nothing, a hang-up does."""
    budget = Budget(reserve="0.05 USD", on_missing_cost="allow")

    assert budget.charge_of(usage=USAGE, cost_source="missing") == 0
    assert budget.charge_of(status=499, outcome="client_disconnect") == RESERVE


def test_request_without_a_price_can_be_refused() -> None:
    """`reserve` returns None for a price that is not known: then the request can never pass."""
    prices = {"/cheap": Decimal("0.001"), "/free": 0, "/unknown": None}
    refusing = Budget(reserve=lambda scope: prices[scope["path"]], on_missing_cost="refuse")
    reserving = Budget(reserve=lambda scope: prices[scope["path"]])

    assert refusing.begin(path="/unknown") is None
    assert refusing.begin(path="/cheap") is not None
    assert refusing.begin(path="/free") is not None
    assert refusing.used == 1001  # a reserve of 0 would limit nothing
    assert reserving.begin(path="/unknown") is not None
    assert reserving.used == 10_000


def test_reserve_of_another_type_is_an_error() -> None:
    """A float or a text is not rounded or parsed: the error says what to return."""
    policy = Policy("20 USD/day", reserve=cast(Any, lambda scope: "0.05 USD"))

    with pytest.raises(ValueError, match=r"reserve must return a Decimal of .* got '0.05 USD'"):
        policy.cost_of({"type": "http"})


def failing(scope: Scope) -> int:
    """Fail to compute a reserve."""
    raise LookupError("no model")


@pytest.mark.parametrize(
    ("reserve", "reserved"),
    [
        (None, 10_000),
        ("0.25 USD", 250_000),
        (Decimal("0.0000001"), 1),
        (7, 7),
        (lambda scope: 9, 9),
        pytest.param(lambda scope: -1, 10_000, id="negative"),
        pytest.param(lambda scope: 0.5, 10_000, id="float"),
        (failing, 10_000),
    ],
)
def test_reserve_is_exact(reserve: Any, reserved: int) -> None:
    """Text and Decimal are dollars, integers micro-dollars; a failing function reserves a cent."""
    budget = Budget(reserve=reserve)

    assert budget.begin() is not None
    assert budget.used == reserved


def test_default_reserve_is_at_most_the_limit() -> None:
    """A budget of less than a cent admits a request."""
    budget = Budget("0.001 USD/day")

    assert budget.begin() is not None
    assert budget.begin() is None


ENDS = st.sampled_from(["complete", "partial", "missing", "gone", "failed", "websocket"])


@given(
    st.lists(
        st.tuples(st.integers(0, 9), ENDS, st.integers(0, 3 * 10**9), st.integers(1, 10**6)),
        max_size=40,
    )
)
def test_money_is_conserved(actions: list[tuple[int, str, int, int]]) -> None:
    """Usage is the reserves of open requests plus the costs of ended ones, in any order."""
    reserves = iter([reserve for *_, reserve in actions])
    budget = Budget("1000 USD/day", reserve=lambda scope: next(reserves))
    opened: list[tuple[Reservations, int]] = []
    settled = refunded = reserved = 0
    for index, end, nanos, reserve in actions:
        reservations = budget.begin()
        if reservations is not None:
            opened.append((reservations, reserve))
            reserved += reserve
        if index < len(opened):
            reservations, reserve = opened.pop(index)
            cost, fields = -(-nanos // 1000), dict[str, Any]()
            if end == "complete":
                fields = {"cost_nanos": nanos, "usage_source": "reported", "status": 200}
            elif end == "partial":
                fields = {"cost_nanos": nanos, "usage_source": "partial", "status": 200}
                cost = max(cost, reserve)
            elif end in ("missing", "gone"):
                source = "missing" if end == "missing" else None
                fields = {"cost_source": source, "status": 200 if source else 499}
                cost = reserve
            elif end == "failed":
                fields, cost = {"status": 502}, 0
            else:
                cost = reserve
            exchange = Exchange("POST", 0.0, **fields) if fields else None
            for _ in range(2):  # the second end has no effect
                reservations.finished(exchange)
            settled += max(cost - reserve, 0)
            refunded += max(reserve - cost, 0)
        assert type(budget.used) is int
        assert budget.used == min(reserved + settled - refunded, budget.limiter.limit)


@pytest.mark.anyio
@pytest.mark.parametrize("around", [ExchangeMiddleware, lambda app: app])
async def test_client_that_hangs_up_is_charged_the_reserve(around: Callable[..., Any]) -> None:
    """The cost of a response that was cut short is not known, so the reserve stays."""
    limiter = Limiter("20 USD/day", clock=FakeClock())
    policy = Policy(limiter, key=client, reserve="0.05 USD")
    app = around(RateLimitMiddleware(streaming_until_disconnect, policies=[policy]))

    await drive(app, http_scope("/v1/chat", method="POST"))

    assert limiter.limit - limiter.peek("client", 0).remaining == RESERVE


async def rejection(respond: Any, **options: Any) -> Answer:
    """Return the response to a request over a budget of a dollar."""
    policy = Policy(
        "1 USD per calendar month", name="budget", key=client, reserve="0.75 USD", **options
    )
    app = RateLimitMiddleware(answering(), policies=[policy], respond=respond)
    await drive(app, http_scope("/v1/chat", method="POST"))
    return await drive(app, http_scope("/v1/chat", method="POST"))


@pytest.mark.anyio
@pytest.mark.parametrize("status", [429, 402])
async def test_status_of_a_budget_can_be_402(status: int) -> None:
    """Each format has the status, its error type, and an honest `Retry-After`."""
    plain = await rejection(too_many_requests, status=status)
    problem = json.loads((await rejection(problem_details, status=status)).body)
    openai = json.loads((await rejection(openai_error, status=status)).body)["error"]
    anthropic = json.loads((await rejection(anthropic_error, status=status)).body)["error"]

    title = {429: "Too Many Requests", 402: "Payment Required"}[status]
    assert (plain.status, plain.body.decode()) == (status, title)
    assert 1 <= int(plain.headers["retry-after"]) <= 31 * 86_400
    assert (problem["status"], problem["title"]) == (status, title)
    assert problem["detail"].startswith("Budget exceeded: 1 USD per calendar month. Retry in ")
    assert (openai["type"], openai["code"]) == ("insufficient_quota", "insufficient_quota")
    assert anthropic["type"] == {429: "rate_limit_error", 402: "billing_error"}[status]
    assert plain.headers["ratelimit-policy"] == '"budget";q=1000000;qu="micro-USD"'
    assert plain.headers["ratelimit"].startswith('"budget";r=250000;t=')


@pytest.mark.anyio
async def test_request_that_can_never_be_paid_gets_no_retry_after() -> None:
    """A reserve above the budget, or a refused price, is not a matter of time."""
    policy = Policy("1 USD/day", key=client, reserve=lambda scope: None, on_missing_cost="refuse")
    app = RateLimitMiddleware(answering(), policies=[policy], respond=problem_details)

    answer = await drive(app, http_scope("/v1/chat", method="POST"))

    assert answer.status == 429
    assert "retry-after" not in answer.headers
    assert "or the price of its model is not known" in json.loads(answer.body)["detail"]


@pytest.mark.parametrize("headers", ["openai", "legacy"])
@pytest.mark.anyio
async def test_dialects_without_units_leave_money_out(headers: str) -> None:
    """A number of micro-dollars would be read as requests."""
    policies = [Policy("1 USD/day", name="budget", key=client), Policy("5/minute", name="minute")]
    app = RateLimitMiddleware(answering(), policies=policies, headers=headers)

    answer = await drive(app, http_scope("/v1/chat", method="POST"))

    assert "4" in answer.headers.values()
    assert not any("1000000" in value or "990000" in value for value in answer.headers.values())


def test_plans_of_money_reserve_and_settle() -> None:
    """The rate is a table or a function of the key; a reserve marks a function as money."""
    table = Policy({"client": "1 USD/day"}, key=client, reserve="0.75 USD")
    function = Policy({"client": "1 USD/day"}.get, key=client, reserve="0.75 USD")

    for policy in (table, function):
        policies = PolicySet([policy], enforce=True, on_decision=None)
        scope = http_scope("/v1/chat", method="POST")
        assert policy.unit == "USD"
        assert [policies.evaluate(scope, None)[1] is None for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    "create",
    [
        lambda: Limiter("1 USD/day", strategy="gcra"),
        lambda: PlanLimiter({"a": "1 USD/day"}, strategy="gcra"),
        lambda: SharedLimiter(
            "1 USD/day", storage="redis://127.0.0.1:1", strategy="sliding-window-counter"
        ),
    ],
    ids=["bucket", "plans", "shared"],
)
def test_budget_needs_exact_windows(create: Callable[[], object]) -> None:
    """Other strategies count fractions."""
    with pytest.raises(ValueError, match="strategy must be 'fixed-window' for a limit of money"):
        create()


@pytest.mark.anyio
async def test_shared_budget_is_settled_after_the_response() -> None:
    """During an outage the budget of this process is charged in the same way."""
    limiter = SharedLimiter("1 USD/day", storage="redis://127.0.0.1:1", clock=FakeClock())
    policy = Policy(limiter, key=client, reserve="0.75 USD")
    decision = await limiter.hit("client", 750_000)
    reservations = Reservations([ChargeResult(Charge(policy, "client", 750_000), decision, 1000.0)])

    reservations.finished(Exchange("POST", 0.0, status=200, cost_nanos=10**8, usage=USAGE))
    await reservations.close()

    assert (await limiter.peek("client", 0)).remaining == 900_000


def test_budget_of_the_workers_is_one(tmp_path: Any) -> None:
    """Limiters with one file share micro-dollars, with windows of the calendar too."""
    for number, rate in enumerate(("1 USD/day", "1 USD per calendar month")):
        first, second = (ZoneLimiter(rate, path=tmp_path / f"{number}") for _ in range(2))
        first.hit("ada", 750_000)
        assert not second.hit("ada", 750_000).allowed
        assert Policy(second, reserve="0.75 USD").unit == "USD"
        second.set_limit(rate.replace("1", "2", 1))
        assert second.hit("ada", 750_000).allowed
        assert not first.hit("ada", 1).allowed
        assert first.dump() == []
        with pytest.raises(ValueError, match=r"limit must be per|limit must keep its window"):
            first.set_limit("1 USD/minute")


def test_workers_in_different_time_zones_cannot_share_a_file(tmp_path: Any) -> None:
    """Their windows would end at different times."""
    ZoneLimiter("1/calendar day", path=tmp_path / "limit")

    with pytest.raises(ValueError, match="path"):
        ZoneLimiter("1/calendar day", path=tmp_path / "limit", timezone="Asia/Tokyo")


@pytest.mark.parametrize(
    ("limit", "options", "error"),
    [
        ("20 USD/day", {"tokens": 10}, "cost and tokens must not be given with a limit of money"),
        ("20 USD/day", {"cost": 2}, "cost and tokens must not be given with a limit of money"),
        ("20 USD/day", {"reserve": 0}, "must be from 0.000001 USD to 20 USD, got 0"),
        ("20 USD/day", {"reserve": "5 EUR"}, "reserve must be in USD"),
        ("20 USD/day", {"reserve": 0.05}, "reserve must be text such as '0.05 USD', .* got 0.05"),
        ("20 USD/day", {"reserve": "21 USD"}, "must be from 0.000001 USD to 20 USD, got '21 USD'"),
        ("20 USD/day", {"reserve": "1"}, "reserve must be an amount of US dollars .* got '1'"),
        ("20 USD/day", {"reserve": Decimal(-1)}, "reserve must be an amount from 0"),
        ("20 USD/day", {"on_missing_cost": "refuse"}, "on_missing_cost='refuse' needs a function"),
        ("20 USD/day", {"on_missing_cost": "later"}, "on_missing_cost must be one of reserve,"),
        ("20 USD/day", {"status": 200}, "status must be one of 429, 402, got 200"),
        ("20 EUR/day", {}, "limit must be in USD"),
        ("20/day", {"reserve": "1 USD"}, "need a limit of money, such as '20 USD/day'"),
        ("20/day", {"on_missing_cost": "allow"}, "need a limit of money, such as '20 USD/day'"),
        (InFlight(2), {"reserve": "1 USD"}, "need a limit of money"),
        (Limiter("1/day"), {"timezone": "UTC"}, "timezone must be given to the limiter"),
        (PlanLimiter({"a": "1 USD/day"}), {"tokens": 5}, "cost and tokens must not be given"),
    ],
)
def test_invalid_budget_is_rejected(limit: Any, options: Any, error: str) -> None:
    """The error says what to write instead."""
    with pytest.raises(ValueError, match=error):
        Policy(limit, **options)

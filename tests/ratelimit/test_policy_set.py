"""Policy sets: a request is counted under all policies or under none."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from tokenpulse_mw import (
    Decision,
    Exchange,
    ExchangeMiddleware,
    HttpMetrics,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    Settings,
    TokenPulse,
    TokenUsage,
)
from tokenpulse_mw.ratelimit.policy_set import Evaluation, PolicySet

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock
from ..support.gates import client, policy_set_of
from ..support.metrics import decided

Local = Limiter | InFlight


def price(scope: Scope) -> int:
    """Return the cost in the scope."""
    cost: int = scope["cost"]
    return cost


def evaluate(policy_set: PolicySet, scope: Scope) -> Evaluation:
    """Evaluate a request without an exchange."""
    return policy_set.evaluate(scope, None)


def limiters(clock: FakeClock) -> st.SearchStrategy[list[Local]]:
    """Return a strategy of lists of limiters of all kinds."""
    timed = st.builds(
        lambda limit, strategy: Limiter(f"{limit}/minute", strategy=strategy, clock=clock),
        st.integers(1, 6),
        st.sampled_from(["fixed-window", "sliding-window-counter", "gcra"]),
    )
    return st.lists(timed | st.builds(InFlight, st.integers(1, 6)), min_size=2, max_size=4)


@given(data=st.data())
def test_request_counts_under_all_policies_or_under_none(data: st.DataObject) -> None:
    """A request that one policy rejects consumes nothing of the others."""
    clock = FakeClock()
    drawn = data.draw(limiters(clock))
    policy_set = policy_set_of(
        *(Policy(limiter, name=f"p{n}", key=client, cost=price) for n, limiter in enumerate(drawn))
    )

    for cost, passed in data.draw(st.lists(st.tuples(st.integers(0, 7), st.floats(0, 40)))):
        clock.advance(passed)
        before = [limiter.peek("client", cost) for limiter in drawn]
        decisions, rejection, _ = evaluate(policy_set, http_scope(cost=cost))
        left = [limiter.peek("client", cost).remaining for limiter in drawn]

        assert (rejection is None) is all(decision.allowed for decision in before)
        taken = cost if rejection is None else 0
        assert left == [decision.remaining - taken for decision in before]
        assert [decision.remaining for decision in decisions] == left


@pytest.mark.parametrize("rejected", [False, True])
def test_each_function_of_a_policy_is_called_once(rejected: bool) -> None:
    """A key, a condition and a cost are computed once per request, even if it is rejected."""

    def named(name: str, value: Any) -> Callable[[Scope], Any]:
        def function(scope: Scope) -> Any:
            scope["calls"].append(name)
            return value

        return function

    key = named("key", "client")
    policies = [
        Policy("9/minute", name="first", key=key, when=named("when", True)),
        Policy("9/minute", name="second", key=key, cost=named("cost", 2)),
        Policy(InFlight(1), name="slots", key=named("own key", "client")),
    ]
    policy_set = policy_set_of(*policies)
    if rejected:
        policies[2].local.hit("client")
    scope = http_scope(calls=[])

    _, rejection, _ = evaluate(policy_set, scope)

    assert (rejection is not None) is rejected
    assert scope["calls"] == ["when", "key", "cost", "own key"]


@pytest.mark.parametrize("failing", [lambda scope: 1 / 0, lambda scope: []], ids=["raises", "list"])
def test_failing_key_does_not_affect_the_key_of_the_next_policy(failing: Any) -> None:
    """A policy counts by its own key after a policy whose key fails or cannot be hashed."""
    policies = [
        Policy("9/minute", name="before", key=client),
        Policy("9/minute", name="failing", key=failing),
        Policy("9/minute", name="after", key=client),
    ]

    decisions, _, _ = evaluate(policy_set_of(*policies), http_scope())

    assert [decision.policy for decision in decisions] == ["before", "after"]
    assert [policy.local.peek("client").remaining for policy in policies] == [8, 9, 8]


class Derived(Limiter):
    """Limiter whose windows are not read by other classes, as those of a subclass."""


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 7), st.floats(0, 40)), max_size=20),
)
def test_open_windows_are_used_as_by_their_limiters(
    limits: list[int], requests: list[tuple[str, int, float]]
) -> None:
    """Policies whose open windows are counted together decide as those with separate hits."""
    clock = FakeClock()

    def policy_set(kind: type[Limiter]) -> PolicySet:
        return policy_set_of(
            *(
                Policy(
                    kind(f"{limit}/minute", max_keys=1, clock=clock),
                    name=f"p{number}",
                    key=lambda scope: scope["key"],
                    tokens=price,
                )
                for number, limit in enumerate(limits)
            )
        )

    sets = policy_set(Limiter), policy_set(Derived)
    for key, cost, passed in requests:
        clock.advance(passed)
        scope = http_scope(key=key, cost=cost)
        (decisions, rejection, held), (others, other_rejection, other_held) = (
            evaluate(policies, scope) for policies in sets
        )

        assert list(decisions) == list(others)
        assert rejection == other_rejection
        for reservations in filter(None, (held, other_held)):
            reservations.finished(Exchange("POST", 0.0, status=200, usage=TokenUsage(cost, 1)))


def test_rejection_is_the_one_with_the_longest_wait(clock: FakeClock) -> None:
    """The attribute `also` of the decision names the other rejecting policies."""
    policies = [
        Policy(Limiter("1/minute", clock=clock), name="minute", key=client),
        Policy(Limiter("9/hour", clock=clock), name="fine", key=client),
        Policy(Limiter("2/day", clock=clock), name="day", key=client, cost=2),
        Policy(Limiter("1/hour", clock=clock), name="hour", key=client),
    ]
    policy_set = policy_set_of(*policies)
    evaluate(policy_set, http_scope())

    decisions, rejection, reservations = evaluate(policy_set, http_scope())

    day = Decision(False, 2, 0, 86400.0, 86400.0, "day", ("minute", "hour"), window=86400)
    assert rejection == day
    assert [decision.allowed for decision in decisions] == [False, True, False, False]
    assert reservations is None


def test_cost_above_the_limit_is_the_longest_wait(clock: FakeClock) -> None:
    """A finite wait of another policy would be wrong for a request that never fits."""
    policy_set = policy_set_of(
        Policy(Limiter("1/day", clock=clock), name="day", key=client),
        Policy(Limiter("5/minute", clock=clock), name="size", key=client, cost=lambda scope: 6),
    )

    _, rejection, _ = evaluate(policy_set, http_scope())
    assert rejection is not None
    assert (rejection.policy, rejection.retry_after, rejection.also) == ("size", math.inf, ())


def test_policy_in_shadow_mode_rejects_no_request(clock: FakeClock) -> None:
    """The other policies count the request, and its decisions are not returned."""
    day, shadow = (Limiter(limit, clock=clock) for limit in ("3/day", "1/day"))
    policy_set = policy_set_of(
        Policy(shadow, name="new", key=client, enforce=False),
        Policy(day, name="old", key=client),
    )

    evaluations = [evaluate(policy_set, http_scope()) for _ in range(4)]

    assert [rejection is None for _, rejection, _ in evaluations] == [True, True, True, False]
    assert [[decision.allowed for decision in decisions] for decisions, _, _ in evaluations] == [
        [True],
        [True],
        [True],
        [False],
    ]
    last = evaluations[-1][1]
    assert last is not None
    assert (last.policy, last.also) == ("old", ())


def test_policy_set_in_shadow_mode_rejects_no_request() -> None:
    """`enforce=False` of the policy set overrides `enforce` of its policies."""
    policy_set = policy_set_of(
        Policy("1/day", name="a", key=client), Policy("1/day", name="b"), enforce=False
    )

    assert [evaluate(policy_set, http_scope())[1] for _ in range(3)] == [None] * 3


def test_request_that_no_policy_applies_to_passes_without_decision() -> None:
    """This reservations for one policy and for several policies."""

    def no_key(scope: Scope) -> None:
        return None

    policies = [Policy("1/day", name=name, key=no_key) for name in "ab"]

    for policy_set in (policy_set_of(policies[0]), policy_set_of(*policies)):
        decisions, rejection, reservations = evaluate(policy_set, http_scope())
        assert (len(decisions), rejection, reservations) == (0, None, None)


def test_only_allowed_slots_and_tokens_are_reserved() -> None:
    """Requests, and slots rejected in shadow mode, need no reservation."""
    plain = Policy("9/day", name="requests", key=client)
    full = Policy(InFlight(1), name="full", key=client, cost=lambda scope: 2, enforce=False)
    slots = Policy(InFlight(9), name="slots", key=client)

    assert evaluate(policy_set_of(plain, full), http_scope())[2] is None
    assert evaluate(policy_set_of(plain, full, slots), http_scope())[2] is not None


def fails(scope: Scope) -> Any:
    """Raise LookupError."""
    raise LookupError("no such user")


BROKEN: dict[str, dict[str, Any]] = {
    "a key that raises": {"key": fails},
    "a key that cannot be hashed": {"key": lambda scope: []},
    "a condition that raises": {"when": fails},
}


COSTLY: dict[str, dict[str, Any]] = {
    "a cost that raises": {"cost": fails},
    "a negative cost": {"cost": lambda scope: -1},
    "a cost that is not an integer": {"cost": lambda scope: 0.5},
    "a cost of None": {"cost": lambda scope: None},
    "a reserve that raises": {"tokens": fails},
    "a reserve that is not a number": {"tokens": lambda scope: "many"},
}


async def statuses_with_failing_policy(
    options: dict[str, Any], alone: bool, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> list[int]:
    """Return the statuses of three requests, after asserting one log line and three errors."""
    policies = [Policy("9/day", name="broken", **options), Policy("2/day", name="valid")]
    app = RateLimitMiddleware(answering(), policies=policies[: 1 if alone else 2])
    app_and_metrics = ExchangeMiddleware(app, observers=[metrics])

    with caplog.at_level(logging.ERROR):
        responses = [await drive(app_and_metrics, http_scope(method="POST")) for _ in range(3)]

    logged = [record.args[0] for record in caplog.records if record.args]  # type: ignore[index]
    assert logged == ["rate limit policy broken"]
    errors = metrics.registry.get_sample_value(
        "tokenpulse_internal_errors_total", {"component": "ratelimit"}
    )
    assert errors == 3
    return [response.status for response in responses]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("options", BROKEN.values(), ids=BROKEN)
@pytest.mark.anyio
async def test_failing_policy_limits_no_request(
    options: dict[str, Any], alone: bool, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The other policies still apply."""
    statuses = await statuses_with_failing_policy(options, alone, metrics, caplog)

    assert statuses == [200, 200, 200 if alone else 429]
    assert decided(metrics, "broken") == {"error": 3}
    assert decided(metrics, "valid") == ({} if alone else {"allowed": 2, "limited": 1})


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("options", COSTLY.values(), ids=COSTLY)
@pytest.mark.anyio
async def test_failing_cost_counts_as_1(
    options: dict[str, Any], alone: bool, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that provokes an error, such as by an invalid header, is still limited."""
    statuses = await statuses_with_failing_policy(options, alone, metrics, caplog)

    assert statuses == [200, 200, 200 if alone else 429]
    assert decided(metrics, "broken") == {"allowed": 3}


@pytest.mark.anyio
async def test_decisions_are_counted_by_policy(metrics: HttpMetrics) -> None:
    """Rejections are counted as limited, or as shadow if they are not enforced."""
    policies = [
        Policy("2/day", name="real"),
        Policy("1/day", name="trial", enforce=False),
    ]
    app = ExchangeMiddleware(
        RateLimitMiddleware(answering(), policies=policies), observers=[metrics]
    )

    for _ in range(4):
        await drive(app)

    assert decided(metrics, "real") == {"allowed": 2, "limited": 2}
    assert decided(metrics, "trial") == {"allowed": 1, "shadow": 3}
    text = metrics.render().decode()
    assert (
        'tokenpulse_rate_limit_decisions_total{decision="limited",policy="real"} 2' in text
        or 'tokenpulse_rate_limit_decisions_total{policy="real",decision="limited"} 2' in text
    )


@pytest.mark.parametrize("count", [1, 2])
def test_on_decision_gets_every_decision(count: int, clock: FakeClock) -> None:
    """`on_decision` is called with the scope and the decision of each policy."""
    calls: list[tuple[str, str, bool]] = []

    def on_decision(scope: Scope, decision: Decision) -> None:
        calls.append((scope["path"], decision.policy, decision.allowed))

    policies = [
        Policy(Limiter("1/day", clock=clock), name="real", key=client),
        Policy(Limiter("9/day", clock=clock), name="other", key=client),
    ]
    policy_set = PolicySet(policies[:count], enforce=True, on_decision=on_decision)

    evaluate(policy_set, http_scope("/1"))
    evaluate(policy_set, http_scope("/2"))

    both = [("/1", "real", True), ("/1", "other", True), ("/2", "real", False)]
    expected = [*both, ("/2", "other", True)]
    assert calls == [call for call in expected if call[1] == "real" or count == 2]


@pytest.mark.parametrize("count", [1, 2])
def test_failing_on_decision_changes_no_decision(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of `on_decision` is logged once."""

    def on_decision(scope: Scope, decision: Decision) -> None:
        raise RuntimeError("no disk")

    policies = [Policy("1/day", name="a", key=client), Policy("1/day", name="b", key=client)]
    policy_set = PolicySet(policies[:count], enforce=True, on_decision=on_decision)

    rejections = [evaluate(policy_set, http_scope())[1] is not None for _ in range(3)]

    assert rejections == [False, True, True]
    assert [record.args for record in caplog.records] == [("ratelimit", "RuntimeError")]


@pytest.mark.anyio
async def test_failing_limiter_limits_no_request() -> None:
    """A broken clock fails no request, and other policies still apply."""

    def clock() -> float:
        raise OSError("no clock")

    broken = Policy(Limiter("5/day", clock=clock), name="broken")
    valid = Policy("1/day", name="valid")

    alone = RateLimitMiddleware(answering(), policies=[broken])
    both = RateLimitMiddleware(answering(), policies=[broken, valid])

    assert [(await drive(alone)).status for _ in range(2)] == [200, 200]
    assert [(await drive(both)).status for _ in range(2)] == [200, 429]


def test_default_key_applies_only_to_policies_without_a_key() -> None:
    """A policy with a key keeps it."""
    keyless, keyed = Limiter("5/minute"), Limiter("5/minute")
    policies = [Policy(keyless, name="a"), Policy(keyed, name="b", key=lambda scope: "own")]
    policy_set = PolicySet(
        policies, enforce=True, on_decision=None, default_key=lambda scope: "default"
    )

    policy_set.evaluate(http_scope(), None)

    assert (list(keyless), list(keyed)) == (["default"], ["own"])


def test_default_key_applies_to_a_single_policy() -> None:
    """The fast path for one plain policy uses the same key."""
    limiter = Limiter("5/minute")
    policy_set = PolicySet(
        [Policy(limiter)], enforce=True, on_decision=None, default_key=lambda scope: "default"
    )

    policy_set.evaluate(http_scope(), None)

    assert list(limiter) == ["default"]


def test_token_pulse_does_not_change_the_policies_of_the_caller() -> None:
    """Two applications with different proxies can share a policy."""
    policy = Policy("5/minute")
    before = dict(vars(policy))

    for proxies in ("10.0.0.0/8", "192.168.0.0/16"):
        TokenPulse(settings=Settings(trusted_proxies=(proxies,)), policies=[policy])

    assert vars(policy) == before

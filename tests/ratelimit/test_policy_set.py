"""The gate: all policies are asked about a request, and it counts under all of them or none."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from tokenpulse_mw import (
    Decision,
    ExchangeMiddleware,
    HttpMetrics,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
)
from tokenpulse_mw.ratelimit.policy_set import Evaluation, PolicySet

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock
from ..support.gates import client, gate_of
from ..support.metrics import decided

Local = Limiter | InFlight


def price(scope: Scope) -> int:
    """What a request says that it costs."""
    cost: int = scope["cost"]
    return cost


def judged(gate: PolicySet, scope: Scope) -> Evaluation:
    """What `gate` decides by limiters of this process, of a request that nobody measures."""
    return gate.evaluate(scope, None)


def limiters(clock: FakeClock) -> st.SearchStrategy[list[Local]]:
    """Several limiters of all kinds."""
    timed = st.builds(
        lambda limit, strategy: Limiter(f"{limit}/minute", strategy=strategy, clock=clock),
        st.integers(1, 6),
        st.sampled_from(["fixed-window", "sliding-window-counter", "gcra"]),
    )
    return st.lists(timed | st.builds(InFlight, st.integers(1, 6)), min_size=2, max_size=4)


@given(data=st.data())
def test_a_request_counts_under_all_policies_or_under_none(data: st.DataObject) -> None:
    """What one refuses is not missing from the others, whatever they are and whatever it costs."""
    clock = FakeClock()
    several = data.draw(limiters(clock))
    gate = gate_of(
        *(Policy(each, name=f"p{n}", key=client, cost=price) for n, each in enumerate(several))
    )

    for cost, passed in data.draw(st.lists(st.tuples(st.integers(0, 7), st.floats(0, 40)))):
        clock.advance(passed)
        before = [each.peek("client", cost) for each in several]
        decisions, refusal, _ = judged(gate, http_scope(cost=cost))
        left = [each.peek("client", cost).remaining for each in several]

        assert (refusal is None) is all(decision.allowed for decision in before)
        taken = cost if refusal is None else 0
        assert left == [decision.remaining - taken for decision in before]
        assert [decision.remaining for decision in decisions] == left


def test_the_longest_wait_decides(clock: FakeClock) -> None:
    """The refusal that has it is the one that is told, and it names the others."""
    policies = [
        Policy(Limiter("1/minute", clock=clock), name="minute", key=client),
        Policy(Limiter("9/hour", clock=clock), name="fine", key=client),
        Policy(Limiter("2/day", clock=clock), name="day", key=client, cost=2),
        Policy(Limiter("1/hour", clock=clock), name="hour", key=client),
    ]
    gate = gate_of(*policies)
    judged(gate, http_scope())

    decisions, refusal, holds = judged(gate, http_scope())

    assert refusal == Decision(False, 2, 0, 86400.0, 86400.0, "day", ("minute", "hour"))
    assert [decision.allowed for decision in decisions] == [False, True, False, False]
    assert holds is None


def test_what_never_fits_is_the_longest_wait(clock: FakeClock) -> None:
    """Another policy's wait would promise too much."""
    gate = gate_of(
        Policy(Limiter("1/day", clock=clock), name="day", key=client),
        Policy(Limiter("5/minute", clock=clock), name="size", key=client, cost=lambda scope: 6),
    )

    _, refusal, _ = judged(gate, http_scope())
    assert refusal is not None
    assert (refusal.policy, refusal.retry_after, refusal.also) == ("size", math.inf, ())


def test_a_policy_in_shadow_keeps_nobody_out(clock: FakeClock) -> None:
    """It decides and counts for itself, unseen; the others are asked as if it had agreed."""
    day, shadow = (Limiter(limit, clock=clock) for limit in ("3/day", "1/day"))
    gate = gate_of(
        Policy(shadow, name="new", key=client, enforce=False),
        Policy(day, name="old", key=client),
    )

    verdicts = [judged(gate, http_scope()) for _ in range(4)]

    assert [refusal is None for _, refusal, _ in verdicts] == [True, True, True, False]
    assert [[each.allowed for each in decisions] for decisions, _, _ in verdicts] == [
        [True],
        [True],
        [True],
        [False],
    ]
    last = verdicts[-1][1]
    assert last is not None
    assert (last.policy, last.also) == ("old", ())


def test_a_gate_in_shadow_enforces_nothing() -> None:
    """Whatever the policies say of themselves."""
    gate = gate_of(Policy("1/day", name="a", key=client), Policy("1/day", name="b"), enforce=False)

    assert [judged(gate, http_scope())[1] for _ in range(3)] == [None] * 3


def test_nothing_claimed_is_nothing_decided() -> None:
    """A request that no policy is for passes, with one policy and with several."""

    def nobody(scope: Scope) -> None:
        return None

    several = [Policy("1/day", name=name, key=nobody) for name in "ab"]

    for gate in (gate_of(several[0]), gate_of(*several)):
        decisions, refusal, holds = judged(gate, http_scope())
        assert (len(decisions), refusal, holds) == (0, None, None)


def test_what_was_allowed_and_ends_later_is_held() -> None:
    """Places and tokens are; requests, and what was refused in shadow, are not."""
    plain = Policy("9/day", name="requests", key=client)
    full = Policy(InFlight(1), name="full", key=client, cost=lambda scope: 2, enforce=False)
    places = Policy(InFlight(9), name="places", key=client)

    assert judged(gate_of(plain, full), http_scope())[2] is None
    assert judged(gate_of(plain, full, places), http_scope())[2] is not None


def fails(scope: Scope) -> Any:
    """A function of the user's that always raises."""
    raise LookupError("no such user")


BROKEN: dict[str, dict[str, Any]] = {
    "a key that raises": {"key": fails},
    "a key that cannot be hashed": {"key": lambda scope: []},
    "a condition that raises": {"when": fails},
}


COSTLY: dict[str, dict[str, Any]] = {
    "a cost that raises": {"cost": fails},
    "a negative cost": {"cost": lambda scope: -1},
    "a cost that is no whole number": {"cost": lambda scope: 0.5},
    "no cost at all": {"cost": lambda scope: None},
    "a reserve that raises": {"tokens": fails},
    "a reserve that is none": {"tokens": lambda scope: "many"},
}


async def failing(
    options: dict[str, Any], alone: bool, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> list[int]:
    """Ask three times where a policy fails; check that it is told once, and always counted."""
    policies = [Policy("9/day", name="broken", **options), Policy("2/day", name="sound")]
    app = RateLimitMiddleware(answering(), policies=policies[: 1 if alone else 2])
    app_and_metrics = ExchangeMiddleware(app, observers=[metrics])

    with caplog.at_level(logging.ERROR):
        answers = [await drive(app_and_metrics, http_scope(method="POST")) for _ in range(3)]

    told = [record.args[0] for record in caplog.records if record.args]  # type: ignore[index]
    assert told == ["rate limit policy broken"]
    failures = metrics.registry.get_sample_value(
        "tokenpulse_internal_errors_total", {"component": "ratelimit"}
    )
    assert failures == 3
    return [answer.status for answer in answers]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("options", BROKEN.values(), ids=BROKEN)
@pytest.mark.anyio
async def test_a_policy_that_fails_lets_the_request_pass(
    options: dict[str, Any], alone: bool, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The other policies still count; it is logged once, and counted every time."""
    statuses = await failing(options, alone, metrics, caplog)

    assert statuses == [200, 200, 200 if alone else 429]
    assert decided(metrics, "broken") == {"error": 3}
    assert decided(metrics, "sound") == ({} if alone else {"allowed": 2, "limited": 1})


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("options", COSTLY.values(), ids=COSTLY)
@pytest.mark.anyio
async def test_a_cost_that_fails_is_one(
    options: dict[str, Any], alone: bool, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """What a client can provoke, by a header that is no number, does not lift the limit."""
    statuses = await failing(options, alone, metrics, caplog)

    assert statuses == [200, 200, 200 if alone else 429]
    assert decided(metrics, "broken") == {"allowed": 3}


@pytest.mark.anyio
async def test_decisions_are_counted_by_policy(metrics: HttpMetrics) -> None:
    """Each policy's own, whether it keeps requests out or only tells."""
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
def test_every_decision_is_told(count: int, clock: FakeClock) -> None:
    """Those that allow, those that refuse, and those that would have; with the request."""
    told: list[tuple[str, str, bool]] = []

    def note(scope: Scope, decision: Decision) -> None:
        told.append((scope["path"], decision.policy, decision.allowed))

    policies = [
        Policy(Limiter("1/day", clock=clock), name="real", key=client),
        Policy(Limiter("9/day", clock=clock), name="other", key=client),
    ]
    gate = PolicySet(policies[:count], enforce=True, on_decision=note)

    judged(gate, http_scope("/1"))
    judged(gate, http_scope("/2"))

    both = [("/1", "real", True), ("/1", "other", True), ("/2", "real", False)]
    expected = [*both, ("/2", "other", True)]
    assert told == [each for each in expected if each[1] == "real" or count == 2]


@pytest.mark.parametrize("count", [1, 2])
def test_whoever_is_told_cannot_undo_a_decision(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that raises is logged once, and the decisions stand."""

    def note(scope: Scope, decision: Decision) -> None:
        raise RuntimeError("no disk")

    policies = [Policy("1/day", name="a", key=client), Policy("1/day", name="b", key=client)]
    gate = PolicySet(policies[:count], enforce=True, on_decision=note)

    refusals = [judged(gate, http_scope())[1] is not None for _ in range(3)]

    assert refusals == [False, True, True]
    assert [record.args for record in caplog.records] == [("ratelimit", "RuntimeError")]


# Limiters that processes share, on real servers.


@pytest.mark.anyio
async def test_a_limiter_that_fails_is_passed_over() -> None:
    """Alone and beside others, which still count: a broken clock is no server error."""

    def clock() -> float:
        raise OSError("no clock")

    broken = Policy(Limiter("5/day", clock=clock), name="broken")
    sound = Policy("1/day", name="sound")

    alone = RateLimitMiddleware(answering(), policies=[broken])
    both = RateLimitMiddleware(answering(), policies=[broken, sound])

    assert [(await drive(alone)).status for _ in range(2)] == [200, 200]
    assert [(await drive(both)).status for _ in range(2)] == [200, 429]

"""Policies, and the charge of one request."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Scope

from tokenpulse_mw import Decision, InFlight, Limiter, Policy, SharedLimiter, keys, requests_to
from tokenpulse_mw.ratelimit.policy import Charge, ChargeResult, check_policies
from tokenpulse_mw.ratelimit.policy_set import PolicySet

from ..support.asgi import http_scope
from ..support.clock import FakeClock

STORAGE = "async+redis://127.0.0.1:1"  # never connected to


def shared(strategy: str = "fixed-window", limit: str = "5/minute") -> SharedLimiter:
    """Return a shared limiter whose storage is never used."""
    return SharedLimiter(limit, storage=STORAGE, strategy=strategy)


def charge_for(policy: Policy, scope: Scope) -> Charge | None:
    """Return the charge of a request under `policy`, or None if the policy does not apply."""
    charges = PolicySet([policy], enforce=True, on_decision=None).charges(scope)
    return charges[0] if charges else None


async def async_function(scope: Scope) -> int:
    """Return a cost asynchronously."""
    return 1


class AsyncObject:
    """Object with an asynchronous call."""

    async def __call__(self, scope: Scope) -> int:
        return 1


def test_policy_from_a_rate_counts_requests_by_address() -> None:
    """By default a request costs 1, and the key is the client's address."""
    policy = Policy("5/minute")

    charge = charge_for(policy, http_scope(client=("192.0.2.7", 1)))

    assert isinstance(policy.limiter, Limiter)
    assert (policy.limiter.limit, policy.limiter.window) == (5, 60)
    assert (policy.name, policy.unit, policy.shared, policy.enforce) == (
        "default",
        "requests",
        False,
        True,
    )
    assert charge is not None
    assert (charge.key, charge.cost) == (bytes([192, 0, 2, 7]), 1)


@pytest.mark.parametrize(
    ("limiter", "unit", "is_shared"),
    [
        (Limiter("5/minute", strategy="gcra"), "requests", False),
        (InFlight(5), "concurrent-requests", False),
        (shared(), "requests", True),
        (shared("sliding-window-counter"), "requests", True),
    ],
)
def test_policy_accepts_any_limiter(limiter: Any, unit: str, is_shared: bool) -> None:
    """The unit follows from the type of the limiter."""
    policy = Policy(limiter)

    assert policy.limiter is limiter
    assert (policy.unit, policy.shared) == (unit, is_shared)


@pytest.mark.parametrize("limiter", ["100/minute", shared(limit="100/minute")])
def test_token_limit_charges_the_reserve(limiter: Any) -> None:
    """A token limit may be local, or shared if the limiter supports refunds."""
    policy = Policy(limiter, tokens=20)

    charge = charge_for(policy, http_scope())

    assert policy.unit == "tokens"
    assert charge is not None
    assert charge.cost == 20


def test_request_that_the_policy_does_not_apply_to_has_no_charge() -> None:
    """A policy applies to requests that match `when` and have a key."""
    policy = Policy("5/minute", key=keys.header("x-api-key"), when=requests_to("/v1/*"))
    key = (b"x-api-key", b"secret")

    assert charge_for(policy, http_scope("/docs", headers=[key])) is None
    assert charge_for(policy, http_scope("/v1/chat")) is None
    assert charge_for(policy, http_scope("/v1/chat", headers=[key])) is not None


def test_cost_can_depend_on_the_request() -> None:
    """A function of the scope returns the cost of a request."""
    policy = Policy("100/minute", cost=lambda scope: len(scope["path"]))

    charge = charge_for(policy, http_scope("/four"))

    assert charge is not None
    assert charge.cost == 5


@pytest.mark.parametrize("cost", [-1, 1.5, "3", None, True])
def test_cost_function_with_invalid_result_is_rejected(cost: Any) -> None:
    """A cost is an integer of at least 0."""
    policy = Policy("5/minute", cost=lambda scope: cost)

    with pytest.raises(ValueError, match="cost must be an integer of at least 0, got"):
        policy.cost_of(http_scope())


def test_reserve_of_0_tokens_is_raised_or_rejected() -> None:
    """A reserve of 0 would allow clients that have used up their tokens."""
    charge = charge_for(Policy("5/minute", tokens=lambda scope: 0), http_scope())
    assert charge is not None

    assert charge.cost == 1
    with pytest.raises(ValueError, match=r"tokens must be an integer from 1 to 5, got 0"):
        Policy("5/minute", tokens=0)


@pytest.mark.parametrize(
    "factory", [keys.client_address, keys.header, keys.annotation, keys.combine, keys.route]
)
def test_uncalled_factory_is_rejected(factory: Any) -> None:
    """The error shows the missing call."""
    name = factory.__name__
    with pytest.raises(
        ValueError,
        match=rf"^key must be .* uncalled factory {name}: call it, as in key={name}\(\.\.\.\)$",
    ):
        Policy("5/minute", key=factory)
    with pytest.raises(ValueError, match=r"^when must be .*, as in when=requests_to\(\.\.\.\)$"):
        Policy("5/minute", when=requests_to)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["false", 0, None])
def test_enforce_is_true_or_false(value: Any) -> None:
    """The string "false" is rejected instead of being read as True."""
    with pytest.raises(ValueError, match=f"enforce must be True or False, got {value!r}"):
        Policy("5/minute", enforce=value)


def test_shared_limiters_with_the_same_counters_are_rejected() -> None:
    """With the same rate, storage and prefix they would count every request twice."""

    def limiter(prefix: str) -> SharedLimiter:
        return SharedLimiter("5/minute", storage="async+redis://127.0.0.1:1", prefix=prefix)

    def policies(first: str, second: str) -> list[Policy]:
        return [Policy(limiter(first), name="first"), Policy(limiter(second), name="second")]

    check_policies(policies("chat", "images"))
    with pytest.raises(ValueError, match=r"its own limiter, .* different prefixes, or paths$"):
        check_policies(policies("chat", "chat"))


@pytest.mark.parametrize("limiter", [Limiter("5/minute", clock=FakeClock()), InFlight(5)])
def test_charge_can_be_peeked_applied_and_refunded(limiter: Limiter | InFlight) -> None:
    """The decisions of a charge have the name of its policy."""
    charge = charge_for(Policy(limiter, name="five", cost=2), http_scope())
    assert charge is not None

    assert (charge.peek().policy, charge.peek().remaining) == ("five", 5)
    assert (charge.apply().policy, charge.peek().remaining) == ("five", 3)
    charge.refund(since=charge.policy.now())
    assert charge.peek().remaining == 5


@pytest.mark.parametrize(("reset_after", "at"), [(2.5, 1002.0), (2.0, 1000.0), (0.5, 1000.0)])
def test_time_of_a_shared_charge_is_never_in_a_later_window(reset_after: float, at: float) -> None:
    """It is that of the response, unless the window may have ended since the request."""
    limiter = SharedLimiter("5/minute", storage=STORAGE, clock=FakeClock(1002.0))
    charge = charge_for(Policy(limiter), http_scope())
    assert charge is not None
    decision = Decision(True, 5, 4, reset_after, 0.0)

    assert ChargeResult.of_shared(charge, decision, asked=1000.0) == (charge, decision, at)


@pytest.mark.parametrize("key", ["", 0, ()])
def test_empty_key_is_rejected(key: Any) -> None:
    """An empty setting is not replaced by the client's address."""
    with pytest.raises(ValueError, match="key must be a function that is not async, got"):
        Policy("5/minute", key=key)


def test_unnamed_policy_returns_decisions_unchanged() -> None:
    """The default name is already in the decision."""
    decision = Decision(True, 5, 4, 60.0, 0.0)

    assert Policy("5/minute").named(decision) is decision
    assert Policy("5/minute", name="five").named(decision).policy == "five"


def test_time_is_read_from_the_clock_of_the_limiter() -> None:
    """A refund needs the time of its hit on the same clock."""
    assert Policy(Limiter("5/minute", clock=FakeClock(7.0))).now() == 7.0
    assert Policy(InFlight(5)).now() == 0.0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": "often"}, "limit must be one rate such as .* got 'often'"),
        ({"limit": 5}, "limit must be a rate such as '100/minute', a function .* got 5"),
        ({"limit": None}, "an InFlight or a SharedInFlight, got None"),
        ({"name": ""}, "policy name must be 1 to 64 letters, digits, .* got ''"),
        ({"name": "a b"}, "policy name must be .* got 'a b'"),
        ({"name": 'a"'}, "policy name must be .* got 'a\"'"),
        ({"name": "a\n"}, r"policy name must be .* got 'a\\n'"),
        ({"name": "a" * 65}, "policy name must be 1 to 64 .* got 'a+'"),
        ({"name": 7}, "policy name must be .* got 7"),
        ({"key": "x-api-key"}, "key must be a function that is not async, got 'x-api-key'"),
        ({"key": async_function}, "key must be a function that is not async, got <function"),
        ({"when": "/v1/*"}, r"when must be a function that is not async, got '/v1/\*'"),
        ({"when": AsyncObject()}, "when must be a function that is not async, got <"),
        ({"cost": -1}, "cost must be an integer from 0 to 5, got -1"),
        ({"cost": 6}, "cost must be an integer from 0 to 5, got 6"),
        ({"cost": 0.5}, "cost must be an integer .* got 0.5"),
        ({"cost": "1"}, "cost must be an integer .* got '1'"),
        ({"cost": True}, "cost must be an integer .* got True"),
        ({"cost": async_function}, "cost must be a function that is not async, got <function"),
        ({"tokens": 6}, "tokens must be an integer from 1 to 5, got 6"),
        ({"tokens": AsyncObject()}, "tokens must be a function that is not async, got <"),
        ({"tokens": 2, "cost": 3}, "give cost or tokens, not both: got 3 and 2"),
        (
            {"tokens": 2, "limit": InFlight(5)},
            "tokens need a rate limit, got a limiter of type InFlight",
        ),
        (
            {"tokens": 2, "limit": shared("sliding-window-counter")},
            "'sliding-window-counter' cannot: use strategy='fixed-window'",
        ),
    ],
)
def test_malformed_argument_is_rejected(arguments: dict[str, Any], error: str) -> None:
    """The error names the parameter, the expected value and the value it got."""
    with pytest.raises(ValueError, match=error):
        Policy(**{"limit": "5/minute", **arguments})


ONE = Limiter("5/minute")


@pytest.mark.parametrize(
    ("policies", "error"),
    [
        ([], "policies must not be empty"),
        (["5/minute"], "policies must be a list of Policy, got '5/minute' among"),
        ([Policy("5/minute"), None], "policies must be a list of Policy, got None among them"),
        (
            [Policy("5/minute"), Policy("5/day")],
            "every policy must have a unique name .name=., got .'default', 'default'.",
        ),
        (
            [Policy(ONE, name="a"), Policy("1/day", name="b"), Policy(ONE, name="c")],
            "every policy must have its own limiter, got the same limiter twice in .'a', 'b', 'c'.",
        ),
        (
            [Policy(shared("sliding-window-counter", f"{n}/day"), name=f"p{n}") for n in (1, 2)],
            "only one policy can have a shared sliding window, .* use strategy='fixed-window'",
        ),
    ],
)
def test_incompatible_policies_are_rejected(policies: Any, error: str) -> None:
    """The error names the cause and the fix."""
    with pytest.raises(ValueError, match=error):
        check_policies(policies)


def test_policies_of_all_kinds_are_compatible() -> None:
    """One of the policies may have a shared sliding window."""
    check_policies(
        [
            Policy("5/minute", name="local"),
            Policy(shared(), name="shared"),
            Policy(shared("sliding-window-counter"), name="sliding"),
            Policy(InFlight(5), name="at-once"),
        ]
    )

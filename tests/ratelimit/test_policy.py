"""Policies: who is limited to what, and what one request claims of it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest
from starlette.types import Scope

from tokenpulse_mw import Decision, InFlight, Limiter, Policy, SharedLimiter, keys, requests_to
from tokenpulse_mw.ratelimit.policy import charge_for, check_policies, with_cost

from ..support.asgi import http_scope
from ..support.clock import FakeClock

STORAGE = "async+redis://127.0.0.1:1"  # nothing listens there, and nothing is asked


def shared(strategy: str = "fixed-window", limit: str = "5/minute") -> SharedLimiter:
    """A limiter whose storage is never asked."""
    return SharedLimiter(limit, storage=STORAGE, strategy=strategy)


async def async_function(scope: Scope) -> int:
    """What cannot be called at once."""
    return 1


class AsyncObject:
    """An object whose call cannot be waited for either."""

    async def __call__(self, scope: Scope) -> int:
        return 1


def test_a_rate_makes_a_limiter_for_each_address() -> None:
    """The shortest policy counts one for every request of a client."""
    policy = Policy("5/minute")

    claim = charge_for(policy, http_scope(client=("192.0.2.7", 1)))

    assert isinstance(policy.limiter, Limiter)
    assert (policy.limiter.limit, policy.limiter.window) == (5, 60)
    assert (policy.name, policy.unit, policy.shared, policy.enforce) == (
        "default",
        "requests",
        False,
        True,
    )
    assert claim is not None
    assert (claim.key, claim.cost) == (bytes([192, 0, 2, 7]), 1)


@pytest.mark.parametrize(
    ("limiter", "unit", "is_shared"),
    [
        (Limiter("5/minute", strategy="gcra"), "requests", False),
        (InFlight(5), "concurrent-requests", False),
        (shared(), "requests", True),
        (shared("sliding-window-counter"), "requests", True),
    ],
)
def test_any_limiter_will_do(limiter: Any, unit: str, is_shared: bool) -> None:
    """It is used as it is, and the policy knows what it is a limit of."""
    policy = Policy(limiter)

    assert policy.limiter is limiter
    assert (policy.unit, policy.shared) == (unit, is_shared)


@pytest.mark.parametrize("limiter", ["100/minute", shared(limit="100/minute")])
def test_a_limit_may_be_one_of_tokens(limiter: Any) -> None:
    """In this process, or in a storage that can give back what was not used."""
    policy = Policy(limiter, tokens=20)

    claim = charge_for(policy, http_scope())

    assert policy.unit == "tokens"
    assert claim is not None
    assert claim.cost == 20


def test_a_request_that_a_policy_is_not_for_claims_nothing() -> None:
    """It is not for other paths than those of `when`, nor for requests without a key."""
    policy = Policy("5/minute", key=keys.header("x-api-key"), when=requests_to("/v1/*"))
    key = (b"x-api-key", b"secret")

    assert charge_for(policy, http_scope("/docs", headers=[key])) is None
    assert charge_for(policy, http_scope("/v1/chat")) is None
    assert charge_for(policy, http_scope("/v1/chat", headers=[key])) is not None


def test_a_cost_can_depend_on_the_request() -> None:
    """A function of the scope gives it for each request."""
    policy = Policy("100/minute", cost=lambda scope: len(scope["path"]))

    claim = charge_for(policy, http_scope("/four"))

    assert claim is not None
    assert with_cost(claim, http_scope("/four")).cost == 5


@pytest.mark.parametrize("cost", [-1, 1.5, "3", None, True])
def test_a_function_may_not_give_what_is_no_cost(cost: Any) -> None:
    """A negative cost would win back what was used, and only whole numbers are counted."""
    claim = charge_for(Policy("5/minute", cost=lambda scope: cost), http_scope())
    assert claim is not None

    with pytest.raises(ValueError, match="cost must be a whole number of at least 0, got"):
        with_cost(claim, http_scope())


def test_there_is_no_reserve_of_nothing() -> None:
    """It would let in whoever has used up the budget."""
    claim = charge_for(Policy("5/minute", tokens=lambda scope: 0), http_scope())
    assert claim is not None

    assert with_cost(claim, http_scope()).cost == 1
    with pytest.raises(ValueError, match=r"tokens must be .* number from 1 to the limit 5, got 0"):
        Policy("5/minute", tokens=0)


@pytest.mark.parametrize(
    "maker", [keys.client_address, keys.header, keys.annotation, keys.combine, keys.route]
)
def test_to_forget_a_call_is_told(maker: Any) -> None:
    """A function that makes keys is no key: it would limit nobody, or all as one."""
    with pytest.raises(ValueError, match=f"key must be what {maker.__name__}.. gives: call it"):
        Policy("5/minute", key=maker)
    with pytest.raises(ValueError, match=r"when must be what requests_to\(\) gives: call it"):
        Policy("5/minute", when=requests_to)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["false", 0, None])
def test_a_switch_is_true_or_false(value: Any) -> None:
    """The word "false" is not False, and must not be taken for True."""
    with pytest.raises(ValueError, match=f"enforce must be True or False, got {value!r}"):
        Policy("5/minute", enforce=value)


def test_shared_limiters_that_are_one_are_refused() -> None:
    """Of the same rate in the same storage, they would count each request twice."""

    def limiter(prefix: str) -> SharedLimiter:
        return SharedLimiter("5/minute", storage="async+redis://127.0.0.1:1", prefix=prefix)

    def policies(one: str, other: str) -> list[Policy]:
        return [Policy(limiter(one), name="one"), Policy(limiter(other), name="other")]

    check_policies(policies("chat", "images"))
    with pytest.raises(ValueError, match=r"its own limiter, .* unless each has a prefix"):
        check_policies(policies("chat", "chat"))


def test_a_key_must_be_hashable() -> None:
    """It is told before anything is counted."""
    keys: list[Hashable] = []

    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        charge_for(Policy("5/minute", key=lambda scope: keys), http_scope())  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("limiter", [Limiter("5/minute", clock=FakeClock()), InFlight(5)])
def test_what_was_taken_can_be_given_back(limiter: Limiter | InFlight) -> None:
    """A claim looks, takes, and undoes; its decisions have the name of their policy."""
    claim = charge_for(Policy(limiter, name="five", cost=2), http_scope())
    assert claim is not None

    assert (claim.peek().policy, claim.peek().remaining) == ("five", 5)
    assert (claim.apply().policy, claim.peek().remaining) == ("five", 3)
    claim.refund(since=claim.policy.now())
    assert claim.peek().remaining == 5


@pytest.mark.parametrize("key", ["", 0, ()])
def test_an_empty_key_is_no_function(key: Any) -> None:
    """A setting that was left empty does not silently mean the address."""
    with pytest.raises(ValueError, match="key must be a function that is not async, got"):
        Policy("5/minute", key=key)


def test_a_policy_without_a_name_leaves_decisions_as_they_are() -> None:
    """They are called "default" already."""
    decision = Decision(True, 5, 4, 60.0, 0.0)

    assert Policy("5/minute").named(decision) is decision
    assert Policy("5/minute", name="five").named(decision).policy == "five"


def test_time_is_that_of_the_limiter() -> None:
    """What is given back later is given back to the window that it was taken from."""
    assert Policy(Limiter("5/minute", clock=FakeClock(7.0))).now() == 7.0
    assert Policy(InFlight(5)).now() == 0.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"limit": "often"}, "limit 'often' is not a rate: expected one rate such as"),
        ({"limit": 5}, "limit must be a rate such as '100/minute', a Limiter, .* got 5"),
        ({"limit": None}, "or an InFlight, got None"),
        ({"name": ""}, "policy name '' must be 1 to 64 letters, digits"),
        ({"name": "a b"}, "policy name 'a b' must be"),
        ({"name": 'a"'}, "policy name 'a\"' must be"),
        ({"name": "a\n"}, r"policy name 'a\\n' must be"),
        ({"name": "a" * 65}, "policy name 'a+' must be 1 to 64"),
        ({"name": 7}, "policy name 7 must be"),
        ({"key": "x-api-key"}, "key must be a function that is not async, got 'x-api-key'"),
        ({"key": async_function}, "key must be a function that is not async, got <function"),
        ({"when": "/v1/*"}, r"when must be a function that is not async, got '/v1/\*'"),
        ({"when": AsyncObject()}, "when must be a function that is not async, got <"),
        ({"cost": -1}, "cost must be a function, or a whole number from 0 to the limit 5, got -1"),
        ({"cost": 6}, "a whole number from 0 to the limit 5, got 6"),
        ({"cost": 0.5}, "cost must be a function, or a whole number .* got 0.5"),
        ({"cost": "1"}, "cost must be a function, or a whole number .* got '1'"),
        ({"cost": True}, "cost must be a function, or a whole number .* got True"),
        ({"cost": async_function}, "cost must be a function that is not async, got <function"),
        ({"tokens": 6}, "tokens must be a function, or a whole number from 1 to the limit 5"),
        ({"tokens": AsyncObject()}, "tokens must be a function that is not async, got <"),
        ({"tokens": 2, "cost": 3}, "give cost or tokens, not both: got 3 and 2"),
        ({"tokens": 2, "limit": InFlight(5)}, "tokens need a rate limit, got an InFlight"),
        (
            {"tokens": 2, "limit": shared("sliding-window-counter")},
            "'sliding-window-counter' cannot: use strategy='fixed-window'",
        ),
    ],
)
def test_malformed_policies_are_refused(arguments: dict[str, Any], said: str) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match=said):
        Policy(**{"limit": "5/minute", **arguments})


ONE = Limiter("5/minute")


@pytest.mark.parametrize(
    ("policies", "said"),
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
            "every policy must have its own limiter, got a repeated one in .'a', 'b', 'c'.",
        ),
        (
            [Policy(shared("sliding-window-counter", f"{n}/day"), name=f"p{n}") for n in (1, 2)],
            "only one policy can have a shared sliding window, .* use strategy='fixed-window'",
        ),
    ],
)
def test_policies_that_cannot_be_asked_together_are_refused(policies: Any, said: str) -> None:
    """The error says what came and how to mend it."""
    with pytest.raises(ValueError, match=said):
        check_policies(policies)


def test_limiters_of_all_kinds_can_be_asked_together() -> None:
    """One shared sliding window among them, which is asked last."""
    check_policies(
        [
            Policy("5/minute", name="here"),
            Policy(shared(), name="there"),
            Policy(shared("sliding-window-counter"), name="sliding"),
            Policy(InFlight(5), name="at-once"),
        ]
    )

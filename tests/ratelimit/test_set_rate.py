"""Limits of policies that change at run time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.types import Scope

from tokenpulse_mw import (
    InFlight,
    PlanLimiter,
    Policy,
    RateLimitMiddleware,
    SharedLimiter,
    problem_details,
)

from ..support.apps import answering
from ..support.asgi import Answer, drive, http_scope

pytestmark = pytest.mark.anyio


def client(scope: Scope) -> str:
    """Return the same key for all requests."""
    return "client"


async def send(app: Any, number: int = 1) -> list[Answer]:
    """Return the responses to requests."""
    return [await drive(app, http_scope("/v1/chat")) for _ in range(number)]


async def test_headers_and_counts_follow_a_new_rate() -> None:
    """The usage stays; the description of the limit is that of the new rate."""
    policy = Policy("2/minute", key=client)
    app = RateLimitMiddleware(answering(), policies=[policy])
    assert [answer.status for answer in await send(app, 3)] == [200, 200, 429]

    policy.set_rate("4 per 2 minutes")
    answers = await send(app, 3)

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"default";q=4;w=120'
    assert answers[0].headers["ratelimit"] == '"default";r=1;t=60'


async def test_several_policies_follow_a_new_rate() -> None:
    """Limits that are judged together change too."""
    policies = [Policy("5/minute", name=name, key=client) for name in ("a", "b")]
    app = RateLimitMiddleware(answering(), policies=policies)
    await send(app, 2)

    policies[1].set_rate("3/minute")
    answers = await send(app, 2)

    assert [answer.status for answer in answers] == [200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"a";q=5;w=60,"b";q=3;w=60'


@pytest.mark.parametrize("number", [1, 2])
async def test_rate_of_0_blocks_until_its_time(number: int) -> None:
    """`Retry-After` is the rest of the maintenance, or a minute if its end is not known."""
    policies = [Policy(f"{5 + extra}/minute", name=f"p{extra}") for extra in range(number)]
    app = RateLimitMiddleware(answering(), policies=policies)
    policy = policies[0]

    policy.set_rate("0", until=datetime.now(UTC) + timedelta(hours=1))
    [answer] = await send(app)
    left = policy.blocked_for()
    assert (answer.status, answer.headers["retry-after"]) == (429, "3600")
    assert answer.headers["ratelimit-policy"].startswith('"p0";q=0;w=60')
    assert left is not None
    assert 3590 < left <= 3600

    policy.set_rate("0")
    [answer] = await send(app)
    assert (answer.headers["retry-after"], policy.blocked_for()) == ("60", float("inf"))

    policy.restore_rate()
    [answer] = await send(app)
    assert (answer.status, policy.blocked_for(), policy.version) == (200, None, 3)


async def test_message_of_a_block_names_no_limit() -> None:
    """A blocked client has no rate to keep."""
    policy = Policy("0/day", key=client)
    app = RateLimitMiddleware(
        answering(), policies=[policy], headers="legacy", respond=problem_details
    )

    [answer] = await send(app)

    assert (answer.status, answer.headers["x-ratelimit-limit"]) == (429, "0")
    assert b'"Requests are blocked at present. Retry in 60 s."' in answer.body


async def test_table_of_plans_changes() -> None:
    """New rates apply to all keys at once, and the first ones can be restored."""
    policy = Policy({"client": "1/minute"}, key=client)
    app = RateLimitMiddleware(answering(), policies=[policy])
    assert [answer.status for answer in await send(app, 2)] == [200, 429]

    policy.set_rate({"client": "2/minute"})
    assert [answer.status for answer in await send(app, 2)] == [200, 429]
    policy.set_rate("0")
    [blocked] = await send(app)
    assert (blocked.status, blocked.headers["retry-after"]) == (429, "60")
    assert blocked.headers["ratelimit-policy"] == '"default";q=0;w=60'
    policy.restore_rate()
    assert (policy.blocked_for(), policy.rate) == (None, None)
    [rejected] = await send(app)
    assert int(rejected.headers["retry-after"]) > 0


async def test_free_request_shows_the_limit_of_a_block() -> None:
    """A request that costs nothing passes, and its headers have the limit of 0."""
    policies = [Policy("5/minute", name=name, key=client, cost=0) for name in ("a", "b")]
    app = RateLimitMiddleware(answering(), policies=policies)
    await send(app)

    policies[0].set_rate("0")
    [answer] = await send(app)

    assert answer.status == 200
    assert answer.headers["ratelimit-policy"].startswith('"a";q=0;w=60,"b";q=5')
    assert answer.headers["ratelimit"].startswith('"a";r=0;t=60,"b";r=5')


async def test_async_plans_stay_async() -> None:
    """The way in which rates are awaited is chosen once."""

    async def rate_of(key: object) -> str:
        return "1/minute"

    policy = Policy(rate_of, key=client)
    app = RateLimitMiddleware(answering(), policies=[policy])

    with pytest.raises(ValueError, match="rates must be async as before"):
        policy.set_rate({"client": "2/minute"})
    assert [answer.status for answer in await send(app, 2)] == [200, 429]


@pytest.mark.parametrize(
    ("policy", "change", "until", "error"),
    [
        (Policy("5/day"), "5 USD/day", None, "limit must be a number without a currency"),
        (Policy("5/day"), {"a": "5/day"}, None, "limit must be a rate such as '100/minute', got"),
        (Policy("50/day", cost=5), "4/day", None, "limit must allow at least the cost of a re"),
        (Policy("5 USD/day", reserve="1 USD"), "0.5 USD/day", None, "the cost of a request, whi"),
        (Policy(InFlight(2)), "4/day", None, "set_rate needs a rate limit, got a limiter of ty"),
        (Policy("5/day"), "0", datetime(2001, 1, 1, tzinfo=UTC), "until must be in the future"),
        (Policy("5/day"), "0", datetime(2999, 1, 1), "with a time zone, got 2999-01-01T00:00:00$"),
        (Policy("5/day"), "0", datetime(2999, 1, 1, tzinfo=UTC), "until must be within 100 years"),
        (
            Policy("5/day"),
            "6/day",
            datetime(2099, 1, 1, tzinfo=UTC),
            "until needs the limit '0', got",
        ),
        (
            Policy({"a": "1/day"}),
            {"a": "2/day"},
            datetime(2099, 1, 1, tzinfo=UTC),
            "until needs the limit '0', got",
        ),
        (Policy({"a": "1/day"}), {"a": "2 USD/day"}, None, "must all have the same currency"),
        (
            Policy(PlanLimiter({"a": "1/day"}, plan_of=str)),
            str,
            None,
            "rates must be a mapping of plans to rates, or a function without plan_of",
        ),
        (
            Policy(SharedLimiter("5/day", storage="redis://127.0.0.1:1")),
            "5/hour",
            None,
            "limit must keep its window in a storage, got 3600 s instead of 86400 s",
        ),
    ],
)
async def test_invalid_change_changes_nothing(
    policy: Policy, change: Any, until: Any, error: str
) -> None:
    """The error says what must stay, and the limit before is still there."""
    before = policy.limiter.limit

    with pytest.raises(ValueError, match=error):
        policy.set_rate(change, until=until)

    assert (policy.limiter.limit, policy.version) == (before, 0)


async def test_limit_of_requests_in_progress_has_no_rate_to_restore() -> None:
    """Only rates change."""
    policy = Policy(InFlight(2))

    with pytest.raises(ValueError, match="set_rate needs a rate limit"):
        policy.restore_rate()

    assert (policy.rate, policy.version, policy.blocked_for()) == (None, 0, None)
    assert policy.shown_limit == policy.configured_limit == "2"

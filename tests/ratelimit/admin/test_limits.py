"""Endpoints of the limits."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from tokenpulse_mw import (
    InFlight,
    Limiter,
    PlanLimiter,
    Policy,
    Settings,
    SharedLimiter,
    TokenPulse,
    keys,
)
from tokenpulse_mw.ratelimit import LimitBody, limit_routes
from tokenpulse_mw.ratelimit.admin import limits as admin_limits
from tokenpulse_mw.ratelimit.zone import ZoneInFlight, ZoneLimiter
from tokenpulse_mw.web.problems import ProblemError

from ...support.asgi import drive, http_scope
from .api import JSON, TOKEN, Api, content

pytestmark = pytest.mark.anyio


async def test_all_limits_are_listed() -> None:
    """Each has its rate as it is written, its unit, and no change yet."""
    api = Api(
        Policy("100/minute", name="address"),
        Policy("20 USD per calendar month", name="budget", timezone="Europe/Berlin", status=402),
        Policy({"free": "1/minute", "pro": None}, name="plans"),
        Policy(lambda key: "1/minute", name="function", enforce=False),
        Policy(InFlight(8), name="at-once"),
    )

    limits = content(await api.send("GET"))["limits"]

    assert [(limit["policy"], limit["limit"], limit["unit"]) for limit in limits] == [
        ("address", "100 per minute", "requests"),
        ("budget", "20 USD per calendar month", "USD"),
        ("plans", {"free": "1/minute", "pro": None}, "requests"),
        ("function", None, "requests"),
        ("at-once", "8", "concurrent-requests"),
    ]
    assert limits[1] == {
        "policy": "budget",
        "limit": "20 USD per calendar month",
        "configured": "20 USD per calendar month",
        "default": None,
        "unit": "USD",
        "timezone": "Europe/Berlin",
        "enforced": True,
        "status": 402,
        "blocked": False,
        "blocked_until": None,
        "version": 0,
        "changed_at": None,
        "changed_by": None,
        "key": "client address",
        "storage": "memory",
        "keys": 0,
        "max_keys": 5000,
        "evictions": 0,
    }


async def test_table_of_each_limit_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown numbers are null: a storage is not asked, and a large file is not counted."""
    monkeypatch.setattr(admin_limits, "_MAX_COUNTED", 20)
    api = Api(
        Policy(Limiter("9/minute", max_keys=2), name="address"),
        Policy(ZoneLimiter("9/minute", path=tmp_path / "a", max_keys=20), name="zone"),
        Policy(ZoneLimiter("9/minute", path=tmp_path / "b", max_keys=21), name="large"),
        Policy(InFlight(8), name="slots", key=keys.header("X-API-Key")),
        Policy(ZoneInFlight(8, path=tmp_path / "c"), name="zone-slots", key=keys.route()),
        Policy(
            SharedLimiter("9/minute", storage="redis://localhost:1"),
            name="shared",
            key=keys.combine(keys.annotation("tenant"), keys.model()),
        ),
        Policy(
            SharedLimiter("9/minute", storage="memcached://localhost:1"),
            name="cached",
            key=lambda scope: "a",
        ),
    )
    for policy in api.policies[:4]:
        for key in "abc":
            policy.local.hit(key)

    limits = content(await api.send("GET"))["limits"]

    names = ("key", "storage", "keys", "max_keys", "evictions")
    assert {limit["policy"]: tuple(limit[name] for name in names) for limit in limits} == {
        "address": ("client address", "memory", 2, 2, 1),
        "zone": ("client address", "workers", 3, 20, 0),
        "large": ("client address", "workers", None, 21, 0),
        "slots": ("header x-api-key", "memory", 3, None, None),
        "zone-slots": ("route", "workers", None, None, None),
        "shared": ("annotation tenant, model", "redis", None, None, None),
        "cached": ("function", "memcached", None, None, None),
    }


async def test_change_keeps_counts_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The response has the new limit and its ETag; the author is in the log."""
    policy = Policy("2/minute", name="address")
    policy.local.hit("ada", 2)
    api = Api(policy)
    first = await api.send("GET", "/address")

    with caplog.at_level(logging.WARNING):
        answer = await api.send(
            "PUT",
            "/address",
            {"limit": "3/minute", "by": "grace\nhopper"},
            match=first.headers["etag"],
        )

    limit = content(answer)
    assert (answer.status, first.headers["etag"], answer.headers["etag"]) == (200, '"0"', '"1"')
    assert (limit["limit"], limit["configured"]) == ("3 per minute", "2 per minute")
    assert (limit["version"], limit["changed_by"]) == (1, "grace hopper")
    assert policy.local.peek("ada", 0).remaining == 1
    assert caplog.messages == [
        "limit changed: policy=address from=2 per minute to=3 per minute by=grace hopper"
    ]
    assert answer.headers["cache-control"] == "no-store"
    assert api.exchanges == []


async def test_block_shows_its_end_and_can_be_undone() -> None:
    """DELETE restores the limit of the start."""
    policy = Policy("2/minute", name="address")
    api = Api(policy)
    until = datetime.now(UTC) + timedelta(hours=1)

    blocked = content(await api.send("PUT", "/address", {"limit": "0", "until": until.isoformat()}))
    assert (blocked["limit"], blocked["blocked"]) == ("0 per minute", True)
    end = datetime.fromisoformat(blocked["blocked_until"])
    assert abs(end - until) < timedelta(seconds=5)
    unknown = content(await api.send("PUT", "/address", {"limit": "0"}))
    assert (unknown["blocked"], unknown["blocked_until"]) == (True, None)

    restored = content(await api.send("DELETE", "/address"))

    assert (restored["limit"], restored["blocked"]) == ("2 per minute", False)
    assert restored["changed_by"] == "unknown"


async def test_block_of_plans_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The table is the same during a block, so the line shows the block."""
    api = Api(Policy({"free": "1/minute"}, name="plans"))

    with caplog.at_level(logging.WARNING):
        await api.send("PUT", "/plans", {"limit": "0"})

    assert caplog.messages == [
        "limit changed: policy=plans from={'free': '1/minute'} to=0 by=unknown"
    ]


async def test_table_of_plans_is_replaced() -> None:
    """The body has the rates of all plans; the name of the caller is the author."""
    policy = Policy({"free": "1/minute"}, name="plans")
    api = Api(policy, authorize=lambda request: "ada")

    answer = await api.send(
        "PUT", "/plans", {"limit": {"free": "2/minute", "pro": None}, "by": "x"}
    )

    limit = content(answer)
    assert limit["limit"] == {"free": "2/minute", "pro": None}
    assert (limit["configured"], limit["changed_by"]) == ({"free": "1/minute"}, "ada")


async def test_default_of_plans_is_shown() -> None:
    """Keys that the table lacks have it, before and after a change of the table."""
    limiter = PlanLimiter({"pro": "9/minute"}, default="2/minute")
    api = Api(
        Policy(limiter, name="plans"),
        Policy(PlanLimiter(lambda key: "9/minute", default="3/minute"), name="function"),
        Policy({"pro": "9/minute"}, name="unlimited"),
    )

    limits = content(await api.send("GET"))["limits"]
    changed = content(await api.send("PUT", "/plans", {"limit": {"pro": "8/minute"}}))

    assert [limit["default"] for limit in limits] == ["2/minute", "3/minute", None]
    assert changed["default"] == "2/minute"
    assert limiter.peek("other").limit == 2


@pytest.mark.parametrize("key", [("acme", "chat"), None, b"acme", 1])
async def test_table_without_text_as_keys_is_not_shown(key: Any) -> None:
    """JSON has only text as keys, so such a table can be blocked, but not replaced."""
    api = Api(Policy({key: "1/minute"}, name="plans"))

    [limit] = content(await api.send("GET"))["limits"]
    answer = await api.send("PUT", "/plans", {"limit": {"acme": "2/minute"}})

    assert (limit["limit"], limit["configured"], answer.status) == (None, None, 422)
    assert content(await api.send("PUT", "/plans", {"limit": "0"}))["blocked"]


@pytest.mark.parametrize(
    ("body", "match", "status", "detail"),
    [
        ({"limit": "3/minute"}, "", 428, "send If-Match with the ETag that you read"),
        ({"limit": "3/minute"}, "0", 400, "Invalid If-Match"),
        ({"limit": "3/minute"}, '"7"', 412, "the limit has changed; read it again"),
        ({"limit": "fast"}, "*", 422, "limit must be one rate"),
        ({"limit": "3 USD/minute"}, "*", 422, "limit must be a number without a currency"),
        ({"limit": {"a": "3/minute"}}, "*", 422, "this limit has no table of plans"),
        (
            {"limit": "0", "until": "2001-01-01T00:00:00Z"},
            "*",
            422,
            '["until"],"msg":"until must be in',
        ),
        ({"limit": "0", "until": "2999-01-01T00:00:00"}, "*", 422, "datetime with a time zone"),
        ({"limit": "0", "until": "9999-12-31T23:59:59Z"}, "*", 422, "until must be within 100 ye"),
        (
            {"limit": "3/minute", "until": "2099-01-01T00:00:00Z"},
            "*",
            422,
            '["until"],"msg":"until needs',
        ),
        ({"limit": 3}, "*", 422, "Expected"),
        ({"limit": "3/minute", "by": "a" * 101}, "*", 422, "of length <= 100"),
        ({"rate": "3/minute"}, "*", 422, "is not a known field"),
        (None, "*", 415, "send JSON"),
    ],
)
async def test_invalid_change_is_rejected(
    body: object, match: str, status: int, detail: str
) -> None:
    """Problem details say what to send instead; the limit stays."""
    policy = Policy("2/minute", name="address")
    api = Api(policy)
    headers = [TOKEN] if body is None else [TOKEN, JSON]
    body = "text" if body is None else body

    answer = await api.send("PUT", "/address", body, match=match, headers=headers)

    assert (answer.status, policy.version) == (status, 0)
    assert detail in answer.body.decode()
    assert answer.headers["content-type"] == "application/problem+json"


async def test_limit_of_requests_in_progress_cannot_change() -> None:
    """It is listed only."""
    answer = await Api(Policy(InFlight(2), name="slots")).send("PUT", "/slots", {"limit": "3/day"})

    assert answer.status == 422
    assert "set_rate needs a rate limit" in answer.body.decode()


@pytest.mark.parametrize("path", ["", "/address", "/openapi.json", "/no/such"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_every_request_needs_authorization(method: str, path: str) -> None:
    """Nothing is read or changed without a valid token."""
    policy = Policy("2/minute", name="address")

    answer = await Api(policy).send(method, path, {"limit": "3/minute"}, headers=[JSON])

    assert (answer.status, policy.version) == (401, 0)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "", 405, "GET, HEAD"),
        ("PATCH", "/address", 405, "GET, HEAD, PUT, DELETE"),
        ("GET", "/unknown", 404, None),
        ("GET", "/no/such", 404, None),
        ("POST", "/no/such", 404, None),
        ("HEAD", "/address", 200, None),
    ],
)
async def test_other_paths_and_methods_are_answered(
    method: str, path: str, status: int, allow: str | None
) -> None:
    """No request below the prefix reaches the application, and with it a vendor."""
    answer = await Api(Policy("2/minute", name="address")).send(method, path)

    assert (answer.status, answer.headers.get("allow")) == (status, allow)


async def test_change_is_stored_before_it_applies() -> None:
    """`keep` receives valid changes only; if it fails, nothing changes."""
    policy, kept = Policy("2/minute", name="address"), list[Any]()

    async def keep(name: str, change: LimitBody | None, by: str) -> None:
        kept.append((name, change and change.limit, by, policy.version))
        if len(kept) > 2:
            raise ProblemError(503, "Service unavailable: the store failed.")

    api = Api(policy, keep=keep)
    await api.send("PUT", "/address", {"limit": "fast"})
    await api.send("PUT", "/address", {"limit": "3/minute", "by": "ada"})
    await api.send("DELETE", "/address")
    failed = await api.send("PUT", "/address", {"limit": "4/minute"})

    assert kept == [
        ("address", "3/minute", "ada", 0),
        ("address", None, "unknown", 1),
        ("address", "4/minute", "unknown", 2),
    ]
    assert (failed.status, str(policy.rate)) == (503, "2 per minute")


@pytest.mark.parametrize("prefix", ["limits", "/limits/", "/{limits}"])
def test_prefix_must_be_a_path(prefix: str) -> None:
    """A path begins with a slash and has no parameters."""
    with pytest.raises(ValueError, match="prefix must be a path such as /admin/limits"):
        limit_routes([], authorize=lambda request: True, prefix=prefix)


async def test_gateway_serves_its_limits_to_the_admin() -> None:
    """With an admin token, limits of the middleware and of routes can be changed."""
    token = "an admin token".replace(" ", "-")
    pulse = TokenPulse(settings=Settings(limit="2/minute", admin_token=token))
    budget = pulse.limit("5 USD/day", name="budget", reserve="0.05 USD", status=402)
    app = Starlette()
    pulse.install(app)
    headers = [(b"authorization", f"Bearer {token}".encode()), JSON]

    async def send(method: str, path: str, body: bytes = b"") -> Any:
        scope = http_scope(
            f"/admin/limits{path}", method=method, headers=[*headers, (b"if-match", b"*")]
        )
        return content(await drive(app, scope, received=[{"type": "http.request", "body": body}]))

    names = [limit["policy"] for limit in (await send("GET", ""))["limits"]]
    changed = await send("PUT", "/budget", b'{"limit": "0.10 USD/day"}')

    assert names == ["default", "budget"]
    assert changed["limit"] == "0.10 USD per day"
    assert str(budget.policy.rate) == "0.10 USD per day"


async def test_request_of_another_site_is_rejected() -> None:
    """A browser cannot be made to change a limit."""
    policy = Policy("2/minute", name="address")
    site = (b"sec-fetch-site", b"cross-site")

    answer = await Api(policy).send(
        "PUT", "/address", {"limit": "3/minute"}, headers=[TOKEN, JSON, site]
    )

    assert (answer.status, policy.version) == (403, 0)

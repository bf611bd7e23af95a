"""`GET /admin/live/state`: the gateway now."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tokenpulse_mw.dashboard import EngineFacts, Facts, StoreFacts, Streak, schemas
from tokenpulse_mw.dashboard.views import Window, providers

from .board import INTERVAL, START, Board, exchange

pytestmark = pytest.mark.anyio


def provider_of(state: Any, name: str = "claude") -> Any:
    """Return a provider of the state."""
    return next(provider for provider in state["providers"] if provider["name"] == name)


async def test_rates_are_those_of_the_last_minute() -> None:
    """Counts are divided by the time that is known, and shares by the requests."""
    board = Board(stored=StoreFacts(cost_usd_today=1.5))
    await board.step()
    await board.step(exchange(), exchange(status=503), exchange(status=429, fault="policy"))
    await board.step(exchange())

    assert board.get("/state")["rates"] == {
        "window_seconds": 60.0,
        "requests_per_second": pytest.approx(4 / 30, rel=1e-4),
        "error_share": 0.25,
        "limited_per_minute": 2.0,
        "tokens_per_minute": {"input": 400.0, "output": 80.0},
        "cost_usd_today": 1.5,
    }


async def test_unknown_is_null_and_never_0() -> None:
    """Before the first sample no rate is known; without requests no share is."""
    board = Board(providers=["gemini"])
    before = board.get("/state")
    await board.step()
    await board.step()
    after = board.get("/state")

    assert before["rates"]["requests_per_second"] is None
    assert before["in_flight"] == {"count": None, "oldest_seconds": None, "stalled": None}
    assert before["internal_errors"] is before["series_overflow"] is None
    assert set(before["faults"].values()) == {None}
    assert provider_of(before, "gemini")["requests_per_minute"] is None
    assert after["rates"]["requests_per_second"] == 0
    assert after["rates"]["tokens_per_minute"] == {"input": 0, "output": 0}
    assert after["rates"]["error_share"] is None
    assert after["internal_errors"] == after["series_overflow"] == after["in_flight"]["count"] == 0
    gemini = provider_of(after, "gemini")
    assert (gemini["requests_per_minute"], gemini["p95_seconds"]) == (0, None)
    assert gemini["limited_by_us_per_minute"] is gemini["upstream"] is None
    assert gemini["credential"] == "unknown"


async def test_provider_has_its_rates_models_and_limits() -> None:
    """A rejection by a limit is no error, and a failure of another fault is one."""
    board = Board(active={"claude": True, "gemini": False})
    await board.step()
    await board.step(
        exchange(time_to_first_token=0.5, cost_nanos=1, cost_source="reported"),
        exchange(status=429, fault="policy"),
        exchange(status=429, fault="gateway"),
        exchange(outcome="truncated", usage=None, usage_source="missing", duration=5.0),
    )

    state = board.get("/state")
    claude = provider_of(state)
    assert claude["requests_per_minute"] == 16
    assert (claude["error_share"], claude["truncated_share"]) == (0.25, 0.25)
    assert (claude["p50_seconds"], claude["p95_seconds"]) == (
        pytest.approx(0.7),
        pytest.approx(8.2),
    )
    assert claude["time_to_first_token_p95_seconds"] == pytest.approx(0.955)
    assert claude["tokens_per_minute"] == {"input": 400, "output": 80}
    assert (claude["limited_by_us_per_minute"], claude["limited_by_vendor_per_minute"]) == (4, 4)
    assert (claude["credential"], claude["usage_missing_share"]) == ("active", 0.5)
    assert claude["models"] == [
        {"name": "m", "requests_per_minute": 8, "tokens_per_minute": {"input": 400, "output": 80}}
    ]
    assert provider_of(state, "gemini")["credential"] == "inactive"
    assert state["faults"] == {
        "client": 0,
        "policy": 4,
        "gateway": 4,
        "provider": 0,
        "network": 0,
    }


async def test_model_whose_provider_is_gone_is_left_out() -> None:
    """Its process has ended, so the provider of the name is not known."""
    board = Board()
    await board.step()
    await board.step(exchange())
    window = Window(board.dashboard.sampler.history, INTERVAL)

    (claude,) = await providers(window, [Facts()], listed=[], active={}, models={})

    assert claude.models == []


async def test_credentials_are_listed_with_their_provider() -> None:
    """The worst is first; a credential whose provider is not known is that of "unknown"."""
    board = Board()
    board.facts.streaks = [
        Streak("provider", "claude", "claude", "", 3, 0.0),
        Streak("apikey", "k1", "claude", "", 0, START),
        Streak("apikey", "k2", "claude", "team b", 7, START - 60),
        Streak("auth", "k2", "claude", "team b", 4, 0.0),
        Streak("auth", "k3", "", "", 1, 0.0),
    ]
    board.facts.upstream = {"claude": schemas.Upstream(requests_remaining=9.0)}
    await board.step()

    state = board.get("/state")
    claude = provider_of(state)
    assert claude["consecutive_failures"] == 3
    assert claude["last_success_at"] == "2027-01-15T08:00:00Z"
    assert claude["upstream"] == {
        "requests_remaining": 9,
        "tokens_remaining": None,
        "resets_at": None,
    }
    assert claude["credentials"] == [
        {
            "id": "k2",
            "group": "team b",
            "consecutive_failures": 7,
            "rejected": 4,
            "last_success_at": "2027-01-15T07:59:00Z",
        },
        {
            "id": "k1",
            "group": None,
            "consecutive_failures": 0,
            "rejected": None,
            "last_success_at": "2027-01-15T08:00:00Z",
        },
    ]
    assert [item["id"] for item in provider_of(state, "unknown")["credentials"]] == ["k3"]


async def test_rejected_credential_has_failures_in_a_row() -> None:
    """A rejection is a failure of the credential, but not one of the provider."""
    board = Board()
    board.facts.streaks = [
        Streak("provider", "claude", "claude", "", 0, START),
        Streak("apikey", "k1", "claude", "", 0, START),
        Streak("auth", "k1", "claude", "", 6, 0.0),
        Streak("auth", "k2", "claude", "", 1, 0.0),
    ]
    await board.step()

    claude = provider_of(board.get("/state"))
    assert claude["consecutive_failures"] == 0
    assert [
        (item["id"], item["consecutive_failures"], item["rejected"])
        for item in claude["credentials"]
    ] == [("k1", 6, 6), ("k2", 1, 1)]


async def test_provider_without_credentials_has_its_own_last_success() -> None:
    """The streak of the provider has the time."""
    board = Board()
    board.facts.streaks = [Streak("provider", "claude", "claude", "", 0, START)]
    await board.step(exchange())
    await board.step(exchange())

    assert provider_of(board.get("/state"))["last_success_at"] == "2027-01-15T08:00:00Z"


async def test_alerts_sinks_checks_and_members_are_shown() -> None:
    """The numbers of notifications are those of the store."""
    at = datetime(2027, 1, 15, 8, tzinfo=UTC)
    member = schemas.Member("gw-1:7:aa", "gw-1", 7, True, at)
    board = Board(
        engine=EngineFacts(
            engine=schemas.Engine(store="none", leader=True, alerts=True, interval_seconds=60.0),
            firing=schemas.Firing(0, 1, 0),
            members=[member],
            sinks=["log", "page"],
        ),
        stored=StoreFacts(None, {"page": 2}, {"log": 1}),
        checks=[schemas.Check("db", "pass", None)],
    )
    board.dashboard.on_delivery("log", "ok")
    board.dashboard.on_delivery("page", "error")

    state = board.get("/state")
    assert (state["status"], state["firing"]) == ("warn", {"critical": 0, "warning": 1, "info": 0})
    assert state["sinks"] == [
        {"name": "log", "waiting": 0, "dead": 1, "last_ok_at": "2027-01-15T08:00:00Z"},
        {"name": "page", "waiting": 2, "dead": 0, "last_ok_at": None},
    ]
    assert state["checks"] == [{"name": "db", "status": "pass", "output": None}]
    assert state["members"][0]["name"] == "gw-1:7:aa"
    assert (state["service"], state["log_level"]) == ("gateway", "INFO")
    assert state["engine"]["leader"] is True
    assert state["scope"] == {"kind": "process", "processes": 1, "missing": 0}
    assert state["instance"]["version"] == "1.2.3"


@pytest.mark.parametrize(
    ("firing", "check", "store", "expected"),
    [
        (schemas.Firing(), "pass", "ok", "ok"),
        (schemas.Firing(0, 0, 5), "pass", "ok", "ok"),
        (schemas.Firing(), "warn", "ok", "warn"),
        (schemas.Firing(), "pass", "failing", "warn"),
        (schemas.Firing(), "fail", "ok", "error"),
        (schemas.Firing(1, 0, 0), "pass", "ok", "error"),
    ],
)
async def test_status_is_the_worst_of_all(
    firing: schemas.Firing, check: Any, store: Any, expected: str
) -> None:
    """Alerts, checks and the store count."""
    board = Board(
        engine=EngineFacts(engine=schemas.Engine(store=store), firing=firing),
        checks=[schemas.Check("db", check)],
    )

    assert board.get("/state")["status"] == expected


async def test_unchanged_state_is_304() -> None:
    """The time of the answer alone is not a change."""
    board = Board()
    board.clocks.advance(1)
    first = board.client.get("/admin/live/state")
    board.clocks.advance(1)
    condition = {"if-none-match": f'"other", {first.headers["etag"]}'}

    same = board.client.get("/admin/live/state", headers=condition)
    board.providers.append("gemini")
    changed = board.client.get("/admin/live/state", headers=condition)

    assert (same.status_code, same.content) == (304, b"")
    assert (changed.status_code, changed.headers["cache-control"]) == (200, "no-store")
    assert board.client.get("/admin/live/state", headers={"if-none-match": "x"}).status_code == 400


async def test_failing_store_is_shown_and_called_only_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Values of the store are null; the rest is shown."""
    board = Board(stored=OSError("down"), engine=EngineFacts(sinks=["log"]))
    failing = board.get("/state")
    board.stored = StoreFacts(1.0, {}, {})
    cached = board.get("/state")
    board.clocks.advance(10)
    recovered = board.get("/state")

    assert failing["engine"]["store"] == cached["engine"]["store"] == "failing"
    assert failing["sinks"][0]["waiting"] is failing["rates"]["cost_usd_today"] is None
    assert recovered["engine"]["store"] == "none"
    assert recovered["sinks"][0]["waiting"] == 0
    assert "dashboard value unknown: value=values of the alert store" in caplog.text


async def test_clear_forgets_everything() -> None:
    """As in a new process."""
    board = Board()
    await board.step(exchange())
    await board.step(exchange())
    board.dashboard.on_delivery("log", "ok")
    before = board.get("/state")
    board.dashboard.clear()
    after = board.get("/state")

    assert provider_of(before)["requests_per_minute"] == 4
    assert after["providers"] == []
    assert before["instance"]["id"] != after["instance"]["id"]


@pytest.mark.slow
async def test_state_of_a_large_gateway_is_small_and_fast() -> None:
    """With 50 providers and 5,000 tenants it has at most 60 kB, and takes 20 ms of CPU time."""
    board = Board(tenants=[tenant(f"tenant {number}") for number in range(5000)])
    board.facts.streaks = [
        Streak("apikey", f"key {number}", f"provider {number % 50}", "", 1, START)
        for number in range(200)
    ]
    for _ in range(5):
        await board.step(
            *(
                exchange(provider=f"provider {number % 50}", model=f"model {number % 2}")
                for number in range(1000)
            )
        )
    body = board.client.get("/admin/live/state").content
    start = time.thread_time()
    query: Any = type("Query", (), {"me": schemas.Me("ada", ["read"]), "values": {}, "root": ""})
    for _ in range(10):
        await board.dashboard.get_state(query)
    seconds = (time.thread_time() - start) / 10

    assert len(body) < 60_000
    assert seconds < 0.02


def tenant(name: str, requests: int = 1) -> schemas.Tenant:
    """Return the usage of a tenant."""
    return schemas.Tenant(
        id=name,
        name=name.title(),
        requests=requests,
        input_tokens=1,
        output_tokens=1,
        cost_usd=0.1,
    )

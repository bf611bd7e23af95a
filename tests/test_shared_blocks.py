"""Blocked keys, in all processes of a gateway."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from tokenpulse_mw import (
    AlertEngine,
    HttpMetrics,
    Limiter,
    Policy,
    Settings,
    TokenPulse,
    annotate,
    keys,
)
from tokenpulse_mw.alerts import MemoryAlertStore, StoreError
from tokenpulse_mw.ratelimit import BlockedKeys, KeyBlock
from tokenpulse_mw.ratelimit.encoding import encode_key
from tokenpulse_mw.stack import shared_blocks
from tokenpulse_mw.stack.defaults import handle_secret
from tokenpulse_mw.stack.shared_blocks import SharedBlocks
from tokenpulse_mw.stack.shared_dir import SharedDir
from tokenpulse_mw.web.problems import ProblemError

from .support.apps import answering
from .support.clock import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logging_as_it_was")]

TOKEN = "a-token-of-enough-characters"
NOON = 1_800_000_000.0
AUTHOR = {"reason": "abuse", "by": "ada"}


class Process:
    """A gateway, as in a process of its own.

    Args:
        client: Client with the admin token.
        pulse: The gateway.
    """

    def __init__(self, client: AsyncClient, pulse: TokenPulse) -> None:
        self.client = client
        self.pulse = pulse

    async def send(self, method: str, path: str, **body: Any) -> Any:
        """Return the response of an endpoint of the limits."""
        path = f"/admin/limits{path}"
        return await self.client.request(method, path, json=body if body else None)

    async def handle(self, address: str) -> str:
        """Return the handle of an address."""
        response = await self.send("GET", f"/default/keys?q={address}")
        [key] = response.json()["keys"]
        return str(key["key"])

    async def status(self) -> int:
        """Return the status of a request of the client after a heartbeat."""
        await self.pulse.engine.fleet()
        return (await self.client.get("/", headers={"authorization": ""})).status_code


@asynccontextmanager
async def process(*, engine: AlertEngine | None = None, **settings: Any) -> AsyncIterator[Process]:
    """Run a gateway with one limit by address."""
    pulse = TokenPulse(
        settings=Settings(**{"admin_token": TOKEN, **settings}),
        metrics=HttpMetrics(CollectorRegistry()),
        engine=engine,
    )
    transport = ASGITransport(app=pulse.wrap(answering()), client=("192.0.2.7", 1))
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        pulse.lifespan(),
        AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client,
    ):
        yield Process(client, pulse)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_block_applies_in_all_processes_and_after_a_restart(tmp_path: Path) -> None:
    """Its handle is known in each process, and each can end it."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    async with process(alert_store=url) as first, process(alert_store=url) as second:
        path = f"/default/keys/{await first.handle('192.0.2.7')}/block"
        response = await first.send("PUT", path, seconds=3600, **AUTHOR)

        assert (response.status_code, response.json()["local"]) == (200, False)
        assert [await first.status(), await second.status()] == [429, 429]
    async with process(alert_store=url) as third, process(alert_store=url) as fourth:
        assert await third.status() == 429
        assert (await third.send("DELETE", path, **AUTHOR)).status_code == 204
        assert [await third.status(), await fourth.status()] == [200, 200]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_stored_changes_apply_to_a_limit_that_is_added_later(tmp_path: Path) -> None:
    """The lifespan of the application may add limits after the settings were read."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    async with process(alert_store=url) as first:
        first.pulse.limit("5/minute", name="late")
        handle = (await first.send("GET", "/late/keys?q=192.0.2.7")).json()["keys"][0]["key"]
        await first.send("PUT", f"/late/keys/{handle}/block", seconds=3600, **AUTHOR)
        await first.client.put(
            "/admin/limits/late", json={"limit": "9/minute"}, headers={"if-match": "*"}
        )
    async with process(alert_store=url) as second:
        second.pulse.limit("5/minute", name="late")
        [key] = (await second.send("GET", "/late/keys")).json()["keys"]
        limit = (await second.send("GET", "/late")).json()["limit"]

    assert (key["label"], key["blocked_until"] is None) == ("192.0.2.7", False)
    assert limit == "9 per minute"


@pytest.mark.parametrize("alerts", [True, False])
async def test_block_without_a_database_is_local(alerts: bool) -> None:
    """The response says so."""
    async with process(alerts=alerts) as single:
        path = f"/default/keys/{await single.handle('192.0.2.7')}/block"
        response = await single.send("PUT", path, seconds=3600, **AUTHOR)

        assert (response.status_code, response.json()["local"]) == (200, True)
        assert await single.status() == 429


async def test_failing_store_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is 503, and the key is not blocked."""
    store = MemoryAlertStore()

    async def fail(*args: object, **options: object) -> None:
        raise StoreError("database is locked")

    async with process(engine=AlertEngine(store=store)) as single:
        path = f"/default/keys/{await single.handle('192.0.2.7')}/block"
        monkeypatch.setattr(store, "set_setting", fail)
        response = await single.send("PUT", path, seconds=3600, **AUTHOR)

        assert response.status_code == 503
        assert await single.status() == 200
    assert "alert store failed, key not changed: policy=default error=" in caplog.text


def shared(*engines: AlertEngine) -> list[tuple[SharedBlocks, BlockedKeys, Policy, FakeClock]]:
    """Return the blocks of some processes."""
    found = []
    for engine in engines:
        policy, clock = Policy("5/minute", key=keys.annotation("tenant")), FakeClock(NOON)
        blocks = BlockedKeys([policy], clock=clock)
        found.append((SharedBlocks(engine, [policy], blocks), blocks, policy, clock))
    return found


async def test_blocks_of_two_processes_before_a_heartbeat_are_both_kept() -> None:
    """A process reads the changes of the others before it stores its own."""
    store = MemoryAlertStore()
    engines = AlertEngine(store=store), AlertEngine(store=store)
    (first, blocks, policy, _), (second, others, other, _) = shared(*engines)

    await first.keep(policy, "a", KeyBlock(NOON + 60, NOON, "ada", ""))
    blocks.set(policy, "a", KeyBlock(NOON + 60, NOON, "ada", ""))
    await second.keep(other, "b", KeyBlock(NOON + 60, NOON + 1, "bob", ""))
    others.set(other, "b", KeyBlock(NOON + 60, NOON + 1, "bob", ""))
    for engine in engines:
        await engine.controls.refresh()

    assert set(blocks.of(policy)) == set(others.of(other)) == {"a", "b"}


async def test_change_that_another_process_overwrites_is_stored_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes may read the stored value before either has stored its change."""
    store = MemoryAlertStore()
    engines = AlertEngine(store=store), AlertEngine(store=store)
    (first, blocks, policy, _), (second, others, other, _) = shared(*engines)
    block = KeyBlock(NOON + 60, NOON, "ada", "")
    await first.keep(policy, "a", block)
    overwritten = {encode_key("b").hex(): block}
    await store.set_setting("limit-blocks:default", overwritten, by="bob", at=NOON)
    for engine in engines:
        await engine.controls.refresh()
    assert set(blocks.of(policy)) == {"a", "b"}
    assert set(others.of(other)) == {"b"}

    async def fail(*args: object, **options: object) -> None:
        raise StoreError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(store, "set_setting", fail)
        await first.store_lost()
    assert "blocks not stored: policy=default error=" in caplog.text
    for process in (second, first, second, first):
        await process.store_lost()
    await engines[1].controls.refresh()

    assert set(blocks.of(policy)) == set(others.of(other)) == {"a", "b"}


async def test_overwritten_changes_are_looked_for_repeatedly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gateway with a database does so while it runs."""
    monkeypatch.setattr(shared_blocks, "_WATCH_SECONDS", 0.0)
    [(blocks_of_all, *_)] = shared(AlertEngine())
    calls = iter([None])

    async def store_lost() -> None:
        next(calls)  # the second call ends the test

    monkeypatch.setattr(blocks_of_all, "store_lost", store_lost)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await blocks_of_all.watch()


async def test_older_change_does_not_replace_a_newer_one() -> None:
    """A stored block from before the end of the block has no effect."""
    engine = AlertEngine()
    [(blocks_of_all, blocks, policy, _)] = shared(engine)
    name = encode_key("a").hex()
    await blocks_of_all.keep(policy, "a", KeyBlock(0.0, NOON, "ada", ""))

    for at, is_blocked in ((NOON - 1, False), (NOON, False), (NOON + 1, True)):
        settings = {"limit-blocks:default": {name: [NOON + 60, at, "bob", ""]}}
        blocks_of_all.on_settings(settings)
        assert ("a" in blocks.of(policy)) is is_blocked


async def test_change_by_a_process_with_a_slow_clock_applies_everywhere() -> None:
    """An operator can end a block that another process has made a moment before."""
    store = MemoryAlertStore()
    engines = AlertEngine(store=store), AlertEngine(store=store)
    (first, blocks, policy, _), (second, others, other, _) = shared(*engines)
    await first.keep(policy, "a", KeyBlock(NOON + 60, NOON, "ada", ""))

    await second.keep(other, "a", KeyBlock(0.0, NOON - 5, "bob", ""))
    for engine in engines:
        await engine.controls.refresh()

    assert set(blocks.of(policy)) == set(others.of(other)) == set()


async def test_change_that_was_not_stored_is_not_stored_with_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The response to the operator was that the key is not blocked."""
    store = MemoryAlertStore()
    engine = AlertEngine(store=store)
    [(blocks_of_all, blocks, policy, _)] = shared(engine)

    async def fail(*args: object, **options: object) -> None:
        raise StoreError("database is locked")

    monkeypatch.setattr(store, "set_setting", fail)
    with pytest.raises(ProblemError):
        await blocks_of_all.keep(policy, "a", KeyBlock(NOON + 60, NOON, "ada", ""))
    monkeypatch.undo()
    await blocks_of_all.keep(policy, "b", KeyBlock(NOON + 60, NOON, "ada", ""))

    assert list(engine.controls.settings["limit-blocks:default"]) == [encode_key("b").hex()]
    assert set(blocks.of(policy)) == {"b"}


async def test_changes_without_an_effect_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored value has no block that is over, and a bounded number of changes."""
    monkeypatch.setattr(shared_blocks, "_MAX_CHANGES", 2)
    engine = AlertEngine()
    [(blocks_of_all, _, policy, clock)] = shared(engine)

    async def stored(key: str) -> list[str]:
        now = clock()
        await blocks_of_all.keep(policy, key, KeyBlock(now + 60, now, "ada", ""))
        value = engine.controls.settings["limit-blocks:default"]
        return [str(bytes.fromhex(name)[-1:].decode()) for name in value]

    assert await stored("a") == ["a"]
    clock.advance(86_000)
    assert await stored("b") == ["a", "b"]
    assert await stored("c") == ["b", "c"]
    clock.advance(86_400)
    assert await stored("d") == ["d"]


async def test_key_that_another_process_cannot_have_is_blocked_locally() -> None:
    """Nothing is stored."""
    engine = AlertEngine()
    [(blocks_of_all, _, policy, _)] = shared(engine)

    for key in (1.5, "k" * 5000):
        assert not await blocks_of_all.keep(policy, key, KeyBlock(NOON + 60, NOON, "ada", ""))
    assert engine.controls.settings == {}


async def test_malformed_stored_blocks_are_skipped_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The other blocks of the policy apply."""
    [(blocks_of_all, blocks, policy, _)] = shared(AlertEngine())
    other = encode_key("b").hex()
    malformed = {
        "zz": [NOON + 60, NOON, "ada", ""],
        "00": [NOON + 60, NOON, "ada", ""],
        (b"i" + b"x" * 9000).hex(): [NOON + 60, NOON, "ada", ""],
        encode_key(1).hex(): [NOON + 60],
        encode_key(2).hex(): [NOON + 60, NOON, "ada", "", "more"],
        encode_key(3).hex(): ["soon", NOON, "ada", ""],
        encode_key(4).hex(): [NOON + 60, NOON, 7, ""],
        encode_key(5).hex(): [math.nan, NOON, "ada", ""],
        encode_key(6).hex(): [1e300, NOON, "ada", ""],
        encode_key(7).hex(): [NOON + 60, 1e300, "ada", ""],
        encode_key(8).hex(): {"until": NOON + 60},
        encode_key(9).hex(): [NOON + 60, NOON, "ada", "r" * 5000],
        encode_key("k" * 5000).hex(): [NOON + 60, NOON, "ada", ""],
    }
    blocked = {encode_key(key).hex(): [NOON + 60, NOON, "ada", ""] for key in ("a", "b")}

    blocks_of_all.on_settings({"limit-blocks:default": {**malformed, **blocked}})

    assert set(blocks.of(policy)) == {"a", "b"}
    [line] = caplog.messages
    assert line.startswith("stored blocks skipped: policy=default count=13 error=")

    blocks_of_all.on_settings({"limit-blocks:default": {other: [0.0, NOON + 1, "bob", ""]}})
    assert set(blocks.of(policy)) == {"a"}


async def test_stored_value_that_is_not_an_object_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The blocks of this process apply, and are stored again."""
    engine = AlertEngine()
    [(blocks_of_all, blocks, policy, _)] = shared(engine)
    block = KeyBlock(NOON + 60, NOON, "ada", "")
    await blocks_of_all.keep(policy, "a", block)
    blocks.set(policy, "a", block)

    await engine.controls.set_setting("limit-blocks:default", 7, by="eve")

    assert set(blocks.of(policy)) == {"a"}
    assert "stored blocks skipped: policy=default count=1 error=" in caplog.text
    await blocks_of_all.store_lost()
    assert list(engine.controls.settings["limit-blocks:default"]) == [encode_key("a").hex()]


async def test_number_of_stored_blocks_that_apply_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that were changed last apply."""
    monkeypatch.setattr(shared_blocks, "_MAX_CHANGES", 2)
    [(blocks_of_all, blocks, policy, _)] = shared(AlertEngine())
    value = {encode_key(key).hex(): [NOON + 60, NOON + key, "ada", ""] for key in range(4)}

    blocks_of_all.on_settings({"limit-blocks:default": value})

    assert set(blocks.of(policy)) == {2, 3}


async def test_name_of_a_tenant_is_shown() -> None:
    """The alert engine knows the names of tenants with recent traffic."""
    app = answering()

    async def annotated(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            annotate(Request(scope), tenant="t1", tenant_name="Acme")
        await app(scope, receive, send)

    limiter = Limiter("1/minute")
    pulse = TokenPulse(
        settings=Settings(admin_token=TOKEN),
        metrics=HttpMetrics(CollectorRegistry()),
        policies=[Policy(limiter, name="tenant", key=keys.annotation("tenant"))],
    )
    limiter.hit("t1")
    limiter.hit("t2")
    transport = ASGITransport(app=pulse.wrap(annotated))
    headers = {"authorization": f"Bearer {TOKEN}"}

    async def labels() -> list[str]:
        found = (await client.get("/admin/limits/tenant/keys", headers=headers)).json()["keys"]
        return sorted(key["label"] for key in found)

    async with AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert await labels() == ["t1", "t2"]
        async with pulse.lifespan():
            await client.get("/")
            await pulse.engine.evaluate()
            assert await labels() == ["Acme (t1)", "t2"]


async def test_rejections_of_the_gateway_are_listed() -> None:
    """Those of the middleware and of limits at routes; `reset` removes them."""
    async with process(limit="1/day") as single:
        statuses = [await single.status() for _ in range(3)]
        body = (await single.send("GET", "/rejections")).json()
        single.pulse.reset()
        empty = (await single.send("GET", "/rejections")).json()

    assert statuses == [200, 429, 429]
    [rejection] = body["rejections"]
    assert (rejection["label"], rejection["count"]) == ("192.0.2.7", 2)
    assert rejection["route"] == "/{path}"
    assert empty["rejections"] == []


def test_secret_of_the_handles_is_that_of_the_settings(tmp_path: Path) -> None:
    """Processes with the same token, storage, store or folder have the same secret."""
    found = [
        handle_secret(settings, None)
        for settings in (
            Settings(admin_token=TOKEN),
            Settings(admin_token=TOKEN, limit_storage="redis://a"),
            Settings(limit_storage="redis://:pw@a"),
            Settings(alert_store="postgresql+asyncpg://u:pw@a/b"),
        )
    ]
    folders = [handle_secret(Settings(), SharedDir(str(tmp_path / "run"))) for _ in range(2)]

    assert found[0] == found[1]
    assert folders[0] == folders[1]
    assert len({*found, *folders}) == 4
    assert all(len(secret or b"") == 32 for secret in (*found, *folders))
    assert handle_secret(Settings(), None) is None


def test_workers_that_start_at_once_have_one_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret of the first worker is that of the second, which has found no file yet."""
    first, second = SharedDir(str(tmp_path / "run")), SharedDir(str(tmp_path / "run"))
    read = Path.read_bytes
    calls = list[Path]()

    def read_late(path: Path) -> bytes:
        calls.append(path)
        if len(calls) == 1:
            first.secret()
            raise FileNotFoundError
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_late)

    assert second.secret() == first.secret()
    assert oct((tmp_path / "run" / "secret").stat().st_mode & 0o777) == "0o600"

"""Limits changed at run time, in all processes of a gateway."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from httpx2 import ASGITransport, AsyncClient
from prometheus_client import CollectorRegistry

from tokenpulse_mw import AlertEngine, HttpMetrics, Policy, Settings, TokenPulse, keys
from tokenpulse_mw.alerts import MemoryAlertStore, StoreError

from .support.apps import answering
from .support.clock import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logging_as_it_was")]

TOKEN = "a-token-of-enough-characters"


class Process:
    """A gateway, as in a process of its own.

    Args:
        client: Client with the admin token.
        pulse: The gateway.
    """

    def __init__(self, client: AsyncClient, pulse: TokenPulse) -> None:
        self._client = client
        self.pulse = pulse

    async def send(self, method: str, path: str = "/tenant", **body: Any) -> dict[str, Any]:
        """Return the decoded response of an endpoint of the limits."""
        response = await self._client.request(
            method,
            f"/admin/limits{path}",
            json=body if method == "PUT" else None,
            headers={"if-match": "*"},
        )
        return {"status": response.status_code, **response.json()}

    async def limit(self) -> tuple[str, int, str | None]:
        """Return the limit, its version and its author after a heartbeat."""
        await self.pulse.engine.fleet()
        state = await self.send("GET")
        return state["limit"], state["version"], state["changed_by"]


@asynccontextmanager
async def process(
    limit: Any = "5/minute", *, engine: AlertEngine | None = None, **settings: Any
) -> AsyncIterator[Process]:
    """Run a gateway with one limit by tenant."""
    pulse = TokenPulse(
        settings=Settings(**{"admin_token": TOKEN, **settings}),
        metrics=HttpMetrics(CollectorRegistry()),
        engine=engine,
        policies=[Policy(limit, name="tenant", key=keys.annotation("tenant"))],
    )
    transport = ASGITransport(app=pulse.wrap(answering()))
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        pulse.lifespan(),
        AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client,
    ):
        yield Process(client, pulse)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_change_applies_in_all_processes_and_after_a_restart(tmp_path: Path) -> None:
    """Version and author are the same everywhere; DELETE restores the limit of the settings."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    async with process(alert_store=url) as first, process(alert_store=url) as second:
        await first.send("PUT", limit="9/minute", by="ada")

        assert await first.limit() == await second.limit() == ("9 per minute", 1, "ada")
    async with process(alert_store=url) as third:
        assert await third.limit() == ("9 per minute", 1, "ada")
        await third.send("DELETE")
        assert await third.limit() == ("5 per minute", 2, "unknown")
    async with process("6/minute", alert_store=url) as fourth:
        assert (await fourth.limit())[0] == "6 per minute"


async def test_block_ends_in_all_processes_with_the_limit_before() -> None:
    """A process that starts during the block, or after it, has the limit before it too."""
    store = MemoryAlertStore()
    until = datetime.now(UTC) + timedelta(hours=1)
    async with process(engine=AlertEngine(store=store)) as first:
        await first.send("PUT", limit="9/minute")
        await first.send("PUT", limit="0", until=until.isoformat())
        later = until + timedelta(hours=1)
        await first.send("PUT", limit="0", until=later.isoformat())  # still returns to 9
        async with process(engine=AlertEngine(store=store)) as second:
            await second.pulse.engine.fleet()
            state = await second.send("GET")
            assert (state["blocked"], state["limit"]) == (True, "0 per minute")
            end = datetime.fromisoformat(state["blocked_until"])
            assert abs(end - later) < timedelta(seconds=10)
            [policy] = second.pulse.policies
            policy.restore_rate()
    value = {"limit": "0", "then": "9/minute", "by": "ada", "version": 4}
    await store.set_setting(
        "limit:tenant", {**value, "until": "2001-01-01T00:00:00+00:00"}, by="ada", at=0.0
    )
    async with process(engine=AlertEngine(store=store)) as third:
        assert await third.limit() == ("9 per minute", 4, "ada")


async def test_time_of_a_change_is_that_of_the_request() -> None:
    """A process that starts later shows when the limit was changed, not when it has read it."""
    store = MemoryAlertStore()
    async with process(engine=AlertEngine(store=store)) as first:
        changed_at = (await first.send("PUT", limit="9/minute"))["changed_at"]
    async with process(engine=AlertEngine(store=store)) as second:
        await second.pulse.engine.fleet()
        state = await second.send("GET")

    assert state["limit"] == "9 per minute"
    assert datetime.fromisoformat(state["changed_at"]) <= datetime.fromisoformat(changed_at)


async def test_block_of_plans_of_a_function_is_shared() -> None:
    """There is no rate to return to, since the function has it."""
    store = MemoryAlertStore()
    until = datetime.now(UTC) + timedelta(hours=1)
    async with (
        process(lambda key: "5/minute", engine=AlertEngine(store=store)) as first,
        process(lambda key: "5/minute", engine=AlertEngine(store=store)) as second,
    ):
        await first.send("PUT", limit="0", until=until.isoformat())
        await second.pulse.engine.fleet()
        assert (await second.send("GET"))["blocked"]


async def test_stored_change_that_no_longer_fits_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A limit whose unit has changed in the settings keeps that of the settings."""
    store = MemoryAlertStore()
    for number, value in enumerate(({"limit": 5}, "text", {"limit": "9/minute", "until": None})):
        await store.set_setting("limit:tenant", value, by="ada", at=float(number))
        caplog.clear()
        async with process("5 USD/day", engine=AlertEngine(store=store)) as gateway:
            await gateway.pulse.engine.fleet()
            [policy] = gateway.pulse.policies

        assert str(policy.rate) == "5 USD per day"
        assert [
            record.levelname
            for record in caplog.records
            if record.getMessage().startswith("stored limit not applied: policy=tenant error=")
        ] == ["ERROR"]


async def test_limit_before_a_block_is_known_after_an_earlier_block() -> None:
    """No request is needed after the end of a block to store the limit that it had replaced."""
    store = MemoryAlertStore()
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    async with process(engine=AlertEngine(store=store)) as gateway:
        [policy] = gateway.pulse.policies
        limiter: Any = policy.limiter
        limiter.clock = clock = FakeClock(0.0)
        await gateway.send("PUT", limit="0", until=until)
        clock.advance(2 * 3600)
        await gateway.send("PUT", limit="0", until=until)

    async with process("6/minute", engine=AlertEngine(store=store)) as restarted:
        await restarted.pulse.engine.fleet()
        [policy] = restarted.pulse.policies
        assert policy.limiter.limit == 0
        limiter = policy.limiter
        limiter.clock = FakeClock(math.inf)
        assert str(policy.rate) == "5 per minute"


class SlowStore(MemoryAlertStore):
    """Store that does not return after it has written a setting."""

    async def set_setting(self, name: str, value: Any, /, *, by: str, at: float) -> None:
        """Write, and wait for ever."""
        await super().set_setting(name, value, by=by, at=at)
        await anyio.sleep_forever()


async def test_stored_change_applies_although_the_request_was_cancelled() -> None:
    """A client that hangs up leaves all processes with the stored limit."""
    async with process(engine=AlertEngine(store=SlowStore())) as gateway:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(gateway.send, "PUT", limit="9/minute", by="ada"))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()

        assert await gateway.limit() == ("9 per minute", 1, "ada")


class OvertakenStore(MemoryAlertStore):
    """Store in which another process replaces each setting at once."""

    async def set_setting(self, name: str, value: Any, /, *, by: str, at: float) -> None:
        """Write the setting, then that of another process."""
        await super().set_setting(name, value, by=by, at=at)
        await super().set_setting(
            name, {**value, "limit": "7/minute", "by": "bob"}, by="bob", at=at
        )


async def test_change_that_another_process_replaces_does_not_apply() -> None:
    """Of two changes at the same time, the one that was stored last applies everywhere."""
    async with process(engine=AlertEngine(store=OvertakenStore())) as gateway:
        answer = await gateway.send("PUT", limit="9/minute", by="ada")

        assert answer["status"] == 412
        assert await gateway.limit() == ("7 per minute", 1, "bob")


class FailingStore(MemoryAlertStore):
    """Store that cannot be written."""

    async def set_setting(self, name: str, value: Any, /, *, by: str, at: float) -> None:
        """Fail."""
        raise StoreError("disk full")


async def test_change_that_cannot_be_stored_is_rejected(caplog: pytest.LogCaptureFixture) -> None:
    """The response is 503, and the limit stays."""
    async with process(engine=AlertEngine(store=FailingStore())) as gateway:
        caplog.set_level(logging.ERROR)
        answer = await gateway.send("PUT", limit="9/minute")

        assert answer["status"] == 503
        assert await gateway.limit() == ("5 per minute", 0, None)
    assert "alert store failed, limit not changed: policy=tenant error=disk full" in caplog.messages


async def test_change_without_alerts_applies_to_one_process() -> None:
    """There is no store then."""
    async with process(alerts=False) as gateway:
        answer = await gateway.send("PUT", limit="9/minute")

    assert (answer["limit"], answer["version"]) == ("9 per minute", 1)

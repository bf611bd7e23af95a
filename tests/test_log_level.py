"""Log level that all processes of a gateway share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from prometheus_client import CollectorRegistry

from tokenpulse_mw import AlertEngine, HttpMetrics, Settings, TokenPulse
from tokenpulse_mw.alerts import MemoryAlertStore, StoreError
from tokenpulse_mw.logs import log_level, set_log_level

from .support.apps import answering

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logging_as_it_was")]

TOKEN = "a-token-of-enough-characters"


@asynccontextmanager
async def process(
    *, engine: AlertEngine | None = None, **settings: Any
) -> AsyncIterator[tuple[AsyncClient, AlertEngine]]:
    """Run a gateway at INFO, as in a process of its own; yield a client and the engine."""
    values = Settings(**{"admin_token": TOKEN, "log_level": "INFO", **settings})
    pulse = TokenPulse(settings=values, metrics=HttpMetrics(CollectorRegistry()), engine=engine)
    transport = ASGITransport(app=pulse.wrap(answering()))
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        pulse.lifespan(),
        AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client,
    ):
        yield client, pulse.engine


async def put(client: AsyncClient, level: str) -> Response:
    """Set the level."""
    return await client.put("/admin/settings", json={"log_level": level})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_level_applies_in_all_processes_at_their_next_heartbeat(tmp_path: Path) -> None:
    """The process that receives the request applies it at once."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    async with process(alert_store=url) as (first, _), process(alert_store=url) as (second, other):
        assert (await put(first, "DEBUG")).json() == {"log_level": "DEBUG"}
        assert log_level() == "DEBUG"
        set_log_level("INFO")  # both processes of this test have one log level

        await other.fleet()

        assert (await second.get("/admin/settings")).json() == {"log_level": "DEBUG"}


async def test_level_applies_in_a_process_without_an_admin_token() -> None:
    """Such a process serves no admin API, but follows the others."""
    store = MemoryAlertStore()
    async with (
        process(engine=AlertEngine(store=store)) as (client, _),
        process(engine=AlertEngine(store=store), admin_token=None) as (_, other),
    ):
        await put(client, "WARN")
        set_log_level("INFO")
        await other.fleet()

        assert log_level() == "WARN"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_level_is_kept_over_a_restart_with_a_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It precedes that of the settings, which a log line reports with its author."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    async with process(alert_store=url) as (client, _):
        await put(client, "WARN")
    caplog.clear()

    async with process(alert_store=url) as (client, _):
        assert (await client.get("/admin/settings")).json() == {"log_level": "WARN"}

    assert "log level changed: from=INFO to=WARN by=127.0.0.1" in caplog.messages


async def test_level_is_that_of_the_settings_after_a_restart_without_a_store() -> None:
    """Without a store, a restart begins with the configured level."""
    async with process() as (client, _):
        await put(client, "WARN")
        assert log_level() == "WARN"

    async with process():
        assert log_level() == "INFO"


async def test_level_is_not_changed_if_the_store_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Other processes would keep the old one, so the request gets 503."""

    class Broken(MemoryAlertStore):
        async def set_setting(self, *arguments: Any, **values: Any) -> None:
            raise StoreError("disk full")

    async with process(engine=AlertEngine(store=Broken())) as (client, _):
        response = await put(client, "WARN")

    assert (response.status_code, log_level()) == (503, "INFO")
    assert "alert store failed, log level not changed: error=disk full" in caplog.messages


async def test_level_without_alerts_is_that_of_the_process() -> None:
    """With `alerts=False` nothing is stored."""
    async with process(alerts=False) as (client, engine):
        assert (await put(client, "WARN")).json() == {"log_level": "WARN"}
        assert (log_level(), dict(engine.controls.settings)) == ("WARN", {})


async def test_other_settings_of_the_store_leave_the_level_unchanged() -> None:
    """Only the level is applied."""
    async with process() as (_, engine):
        set_log_level("ERROR")
        await engine.controls.set_setting("colour", "blue", by="ada")

        assert log_level() == "ERROR"


async def test_invalid_level_in_the_store_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A level of a later version does not stop the engine."""
    async with process() as (_, engine):
        await engine.controls.set_setting("log_level", {"level": "LOUD", "by": "ada"}, by="ada")

        assert (log_level(), await engine.evaluate()) == ("INFO", [])

    assert any("SharedLogLevel failed" in message for message in caplog.messages)

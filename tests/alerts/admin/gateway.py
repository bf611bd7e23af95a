"""An engine with an admin API, and a client that may use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio
from httpx2 import Response
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    Finding,
    Severity,
    Subject,
    Thresholds,
    Traffic,
)
from tokenpulse_mw.alerts.admin import alert_routes
from tokenpulse_mw.alerts.store import AlertStore, MemoryAlertStore
from tokenpulse_mw.web.auth import bearer

from ...support.clock import FakeClock

TOKEN = "s3cret"
GUARD = bearer(TOKEN)
PREFIX = "/admin/alerts"
NOON = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def trouble(identity: str = "k1", severity: Severity = "warning", **fields: Any) -> Finding:
    """What the rule of a test finds."""
    values: dict[str, Any] = {"title": "Trouble", "message": "There is trouble.", **fields}
    return Finding(type="trouble", subject=Subject("key", identity), severity=severity, **values)


class Found:
    """A rule that finds what a test says, in every round."""

    name = "found"

    def __init__(self, *findings: Finding) -> None:
        self.findings = list(findings)

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        return self.findings


async def deaf(event: AlertEvent) -> None:
    """A sink that takes everything."""


class Api:
    """An engine, whose clocks stand still, and its API.

    Attributes:
        engine: The engine.
        rule: Finds what it is told to find.
        clock: Both of the engine's clocks.
        app: Serves the API alone.
        routes: Of the API.
    """

    def __init__(
        self,
        *findings: Finding,
        store: AlertStore | None = None,
        authorize: Any = GUARD,
        **options: Any,
    ) -> None:
        self.clock = FakeClock(NOON)
        self.rule = Found(*findings)
        self.engine = AlertEngine(
            **{"rules": [self.rule], "sinks": [deaf], **options},
            store=store or MemoryAlertStore(wall=self.clock),
            clock=self.clock,
            wall=self.clock,
        )
        self.routes = alert_routes(self.engine, authorize=authorize)
        self.app = Starlette(routes=self.routes)
        self._client = TestClient(self.app, headers={"authorization": f"Bearer {TOKEN}"})

    def ask(self, method: str, path: str = "", **options: Any) -> Response:
        """What the API answers; `path` is below the prefix."""
        return self._client.request(method, PREFIX + path, **options)

    def get(self, path: str = "") -> Any:
        """The JSON that the API gives."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, method: str, path: str, **options: Any) -> tuple[int, list[Any]]:
        """The status of a refusal, and where it says that something is wrong."""
        answer = self.ask(method, path, **options)
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, [each["loc"] for each in answer.json().get("errors", [])]

    def round(self) -> list[AlertEvent]:
        """Let the engine evaluate once."""
        return anyio.run(self.engine.evaluate)

    def alert_id(self) -> str:
        """The id of the newest alert."""
        return str(self.get()["alerts"][0]["id"])

"""Alert engine with its admin API, and an authorized client."""

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
AUTHORIZE = bearer(TOKEN)
PREFIX = "/admin/alerts"
NOON = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def trouble(identity: str = "k1", severity: Severity = "warning", **fields: Any) -> Finding:
    """Return a finding about a key."""
    values: dict[str, Any] = {"title": "Trouble", "message": "There is trouble.", **fields}
    return Finding(type="trouble", subject=Subject("key", identity), severity=severity, **values)


class FixedRule:
    """Rule that returns `findings` in every evaluation."""

    name = "fixed"

    def __init__(self, *findings: Finding) -> None:
        self.findings = list(findings)

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        return self.findings


async def accepting(event: AlertEvent) -> None:
    """Accept every event."""


class Api:
    """Engine with a fake clock, its admin API and a client.

    Attributes:
        engine: The engine.
        rule: Its rule.
        clock: Both of its clocks.
        app: Application with the routes of the API only.
        routes: Routes of the API.
    """

    def __init__(
        self,
        *findings: Finding,
        store: AlertStore | None = None,
        authorize: Any = AUTHORIZE,
        **options: Any,
    ) -> None:
        self.clock = FakeClock(NOON)
        self.rule = FixedRule(*findings)
        self.engine = AlertEngine(
            **{"rules": [self.rule], "sinks": [accepting], **options},
            store=store or MemoryAlertStore(wall=self.clock),
            clock=self.clock,
            wall=self.clock,
        )
        self.routes = alert_routes(self.engine, authorize=authorize)
        self.app = Starlette(routes=self.routes)
        self._client = TestClient(self.app, headers={"authorization": f"Bearer {TOKEN}"})

    def request(self, method: str, path: str = "", **options: Any) -> Response:
        """Return the response to a request; `path` is below the prefix."""
        return self._client.request(method, PREFIX + path, **options)

    def get(self, path: str = "") -> Any:
        """Return the JSON body of a successful GET request."""
        response = self.request("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def error(self, method: str, path: str, **options: Any) -> tuple[int, list[Any]]:
        """Return the status and the error locations of a rejected request."""
        response = self.request(method, path, **options)
        assert response.headers["content-type"] == "application/problem+json"
        return response.status_code, [error["loc"] for error in response.json().get("errors", [])]

    def evaluate(self) -> list[AlertEvent]:
        """Evaluate the rule once."""
        return anyio.run(self.engine.evaluate)

    def alert_id(self) -> str:
        """Return the id of the newest alert."""
        return str(self.get()["alerts"][0]["id"])

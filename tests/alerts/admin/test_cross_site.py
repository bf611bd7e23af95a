"""Rejection of cross-site requests by every operation that changes state."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.admin.routes import OPERATIONS
from tokenpulse_mw.alerts.store import Matcher
from tokenpulse_mw.web.operation import Operation

from .api import Api, trouble

pytestmark = pytest.mark.slow

CHANGES = [operation for operation in OPERATIONS if operation.method != "GET"]
READS = [operation for operation in OPERATIONS if operation.method == "GET"]

CROSS_SITE = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
]
BODIES: list[tuple[str | None, bytes | None]] = [
    (None, None),
    (None, b"{}"),
    ("text/plain", b"{}"),
    ("application/x-www-form-urlencoded", b"{}"),
    ("multipart/form-data; boundary=x", b"{}"),
    ("application/json", b"{}"),
]


class Ops:
    """API with an acknowledged alert, a silence and a sink, and valid requests for them.

    Attributes:
        api: The API.
        events: Events that the sink has received.
    """

    def __init__(self) -> None:
        self.events: list[AlertEvent] = []
        self.api = Api(trouble(), sinks=[self._sink])
        self.api.evaluate()
        self._alert = self.api.alert_id()
        self._silence = anyio.run(self._prepare)

    def request(self, operation: Operation, **options: Any) -> Any:
        """Return the response of `operation` to a request for the alert or the silence."""
        identity = self._alert if "ack" in operation.path else self._silence
        path = operation.path.replace("{id}", identity)
        return self.api.request(operation.method, path, **options)

    def valid(self, operation: Operation) -> dict[str, Any]:
        """Return the headers and the body of a valid request."""
        thresholds = self.api.engine.thresholds.as_dict()
        matcher = {"name": "severity", "value": "info"}
        body = {
            ("PUT", "/thresholds"): {"thresholds": {**thresholds, "error_rate": 0.2}},
            ("PATCH", "/thresholds"): {"thresholds": {"error_rate": 0.2}},
            ("POST", "/silences"): {"matchers": [matcher], "duration": 60},
            ("POST", "/test"): {"sink": next(iter(self.api.engine.sinks))},
        }.get((operation.method, operation.path))
        headers = {"if-match": '"0"'} if operation.path == "/thresholds" else {}
        return {"headers": headers, "json": body} if body else {"headers": headers}

    def state(self) -> list[Any]:
        """Return all state that the operations can change."""
        paths = ("", f"/{self._alert}", "/silences", "/thresholds", "/thresholds/history")
        return [*(self.api.get(path) for path in paths), len(self.events)]

    async def _sink(self, event: AlertEvent) -> None:
        self.events.append(event)

    async def _prepare(self) -> str:
        controls = self.api.engine.controls
        await controls.acknowledge(self._alert, by="ada", note="")
        silence = await controls.silence(Matcher("severity", "critical"), ends_at=4e9, by="ada")
        return silence.id


def label(operation: Operation) -> str:
    """Return the id of a test parameter."""
    return f"{operation.method} {operation.path}"


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
@pytest.mark.parametrize("operation", CHANGES, ids=label)
def test_valid_cross_site_request_is_rejected_and_changes_nothing(
    operation: Operation, headers: dict[str, str]
) -> None:
    """A cross-site request gets 403, and the same request from the own origin succeeds."""
    ops = Ops()
    before, options = ops.state(), ops.valid(operation)

    rejected = ops.request(operation, **{**options, "headers": {**options["headers"], **headers}})

    assert rejected.status_code == 403
    assert rejected.headers["content-type"] == "application/problem+json"
    assert rejected.json()["title"] == "Forbidden"
    assert rejected.json()["detail"].startswith("Cross-site request rejected: ")
    assert ops.state() == before

    own = {"sec-fetch-site": "same-origin", "origin": "http://testserver"}
    accepted = ops.request(operation, **{**options, "headers": {**options["headers"], **own}})
    assert accepted.status_code == operation.status
    assert (ops.state() != before) is (operation.path != "/evaluate")


@pytest.mark.parametrize(("content_type", "body"), BODIES)
@pytest.mark.parametrize("operation", CHANGES, ids=label)
def test_cross_site_request_with_any_body_is_rejected(
    operation: Operation, content_type: str | None, body: bytes | None
) -> None:
    """A cross-site request gets 403 without a body, and with every type that a form can send."""
    ops = Ops()
    before = ops.state()
    headers = {"origin": "https://evil.example"}
    headers |= {"content-type": content_type} if content_type else {}

    response = ops.request(operation, headers=headers, content=body)

    assert response.status_code == 403
    assert ops.state() == before


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
@pytest.mark.parametrize("operation", READS, ids=label)
def test_cross_site_read_succeeds_and_changes_nothing(
    operation: Operation, headers: dict[str, str]
) -> None:
    """GET requests change nothing, so links from other sites work."""
    ops = Ops()
    before = ops.state()

    response = ops.request(operation, headers=headers)

    assert response.status_code in (200, 404)  # 404: the id of the silence is not an alert's
    assert ops.state() == before


def test_cross_site_acknowledgement_by_cookie_is_rejected() -> None:
    """A page of another site cannot use the cookie that the browser adds to its requests."""
    api = Api(trouble(), authorize=lambda request: request.cookies.get("session"))
    api.evaluate()
    alert = api.request("GET", headers={"cookie": "session=ada"}).json()["alerts"][0]["id"]
    by_cookie = {"cookie": "session=ada", "sec-fetch-site": "cross-site"}

    rejected = api.request("POST", f"/{alert}/ack", headers=by_cookie)
    accepted = api.request("POST", f"/{alert}/ack", headers={"cookie": "session=ada"})

    assert rejected.status_code == 403
    assert accepted.json()["ack"]["by"] == "ada"


def test_openapi_describes_the_403_of_every_operation() -> None:
    """OpenAPI has a 403 with problem details for each operation, and names its cause."""
    document = Api().get("/openapi.json")

    for operations in document["paths"].values():
        for method, operation in operations.items():
            response = operation["responses"]["403"]
            assert "application/problem+json" in response["content"]
            assert ("cross-site" in response["description"]) is (method != "get")

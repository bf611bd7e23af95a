"""Cross-site requests: every operation that changes state refuses them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.admin.operation import Operation
from tokenpulse_mw.alerts.admin.routes import OPERATIONS
from tokenpulse_mw.alerts.store import Matcher

from .gateway import Api, trouble

CHANGES = [each for each in OPERATIONS if each.method != "GET"]
READS = [each for each in OPERATIONS if each.method == "GET"]

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
    """An API with an acknowledged alert, a silence and a sink, and requests that change each.

    Attributes:
        api: The API.
        events: What the sink has received.
    """

    def __init__(self) -> None:
        self.events: list[AlertEvent] = []
        self.api = Api(trouble(), sinks=[self._sink])
        self.api.round()
        self._alert = self.api.alert_id()
        self._silence = anyio.run(self._prepare)

    def request(self, operation: Operation, **options: Any) -> Any:
        """The response of `operation` to a request for what there is."""
        kind = self._alert if "ack" in operation.path else self._silence
        path = operation.path.replace("{id}", kind)
        return self.api.ask(operation.method, path, **options)

    def valid(self, operation: Operation) -> dict[str, Any]:
        """The headers and the body of a request that the operation carries out."""
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
        """All that the operations may change."""
        paths = ("", f"/{self._alert}", "/silences", "/thresholds", "/thresholds/history")
        return [*(self.api.get(path) for path in paths), len(self.events)]

    async def _sink(self, event: AlertEvent) -> None:
        self.events.append(event)

    async def _prepare(self) -> str:
        controls = self.api.engine.controls
        await controls.acknowledge(self._alert, by="ada", note="")
        made = await controls.silence(Matcher("severity", "critical"), ends_at=4e9, by="ada")
        return made.id


def name(operation: Operation) -> str:
    """What a test calls an operation."""
    return f"{operation.method} {operation.path}"


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
@pytest.mark.parametrize("operation", CHANGES, ids=name)
def test_valid_cross_site_request_is_refused_and_changes_nothing(
    operation: Operation, headers: dict[str, str]
) -> None:
    """The same request is carried out when it comes from a page of the gateway itself."""
    ops = Ops()
    before, options = ops.state(), ops.valid(operation)

    refused = ops.request(operation, **{**options, "headers": {**options["headers"], **headers}})

    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["title"] == "Forbidden"
    assert refused.json()["detail"].startswith("Cross-site request refused: ")
    assert ops.state() == before

    own = {"sec-fetch-site": "same-origin", "origin": "http://testserver"}
    done = ops.request(operation, **{**options, "headers": {**options["headers"], **own}})
    assert done.status_code == operation.status
    assert (ops.state() != before) is (operation.path != "/evaluate")


@pytest.mark.parametrize(("kind", "body"), BODIES)
@pytest.mark.parametrize("operation", CHANGES, ids=name)
def test_cross_site_request_is_refused_with_any_body(
    operation: Operation, kind: str | None, body: bytes | None
) -> None:
    """Also without a body, and with the types that a form can send."""
    ops = Ops()
    before = ops.state()
    headers = {"origin": "https://evil.example", **({"content-type": kind} if kind else {})}

    refused = ops.request(operation, headers=headers, content=body)

    assert refused.status_code == 403
    assert ops.state() == before


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
@pytest.mark.parametrize("operation", READS, ids=name)
def test_cross_site_read_is_answered_and_changes_nothing(
    operation: Operation, headers: dict[str, str]
) -> None:
    """No GET changes state, so links from other sites work."""
    ops = Ops()
    before = ops.state()

    answer = ops.request(operation, headers=headers)

    assert answer.status_code in (200, 404)  # an alert has another id than a silence
    assert ops.state() == before


def test_cross_site_acknowledgement_by_cookie_is_refused() -> None:
    """A page of another site cannot use the cookie that the browser adds to its requests."""
    api = Api(trouble(), authorize=lambda request: request.cookies.get("session"))
    api.round()
    alert = api.ask("GET", headers={"cookie": "session=ada"}).json()["alerts"][0]["id"]
    by_cookie = {"cookie": "session=ada", "sec-fetch-site": "cross-site"}

    refused = api.ask("POST", f"/{alert}/ack", headers=by_cookie)
    accepted = api.ask("POST", f"/{alert}/ack", headers={"cookie": "session=ada"})

    assert refused.status_code == 403
    assert accepted.json()["ack"]["by"] == "ada"


def test_every_operation_describes_the_refusal() -> None:
    """OpenAPI has a 403 with problem details for each of them, and says what causes it."""
    described = Api().get("/openapi.json")

    for operations in described["paths"].values():
        for method, operation in operations.items():
            refusal = operation["responses"]["403"]
            assert "application/problem+json" in refusal["content"]
            assert ("cross-site" in refusal["description"]) is (method != "get")

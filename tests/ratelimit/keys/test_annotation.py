"""Keys by annotations."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import (
    Exchange,
    ExchangeMiddleware,
    Policy,
    RateLimitMiddleware,
    Settings,
    TokenPulse,
    annotate,
    keys,
)

from ...support.apps import KeyRecorder, answering
from ...support.asgi import drive, http_scope

FIX = (
    "so no request is limited (logged once): call annotate() in a middleware outside the limit "
    "(with TokenPulse: added before install(), and the policy in inner_policies), or, if a "
    "dependency or an endpoint knows it, limit at the route: Depends(pulse.limit(...)) or await "
    "pulse.check(...)"
)
MISSING = f"found no annotation in 100 requests, {FIX}"


@pytest.mark.parametrize("field", ["tenant", "api_key", "credential", "provider", "model"])
@pytest.mark.anyio
async def test_annotation_is_the_key(field: str) -> None:
    """A long annotation is shortened; without an annotation the key is None."""
    seen: list[object] = []
    recorder = KeyRecorder(answering(), key=keys.annotation(field), seen=seen)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **{field: scope["path"].strip("/")})
        await recorder(scope, receive, send)

    for path in ("/acme", "/", "/" + "x" * 1000):
        await drive(ExchangeMiddleware(app), http_scope(path))
    await drive(ExchangeMiddleware(recorder))

    name, empty, long, unannotated = seen
    assert (name, empty, unannotated) == ("acme", None, None)
    assert isinstance(long, str)
    assert len(long) < 300


def test_key_without_an_exchange_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The key is None, and the warning after 100 requests states the fix."""
    key = keys.annotation("tenant")
    scope = http_scope("/chat")

    assert {key(scope) for _ in range(99)} == {None}
    assert not caplog.records
    assert {key(scope) for _ in range(150)} == {None}
    (record,) = caplog.records
    assert record.name == "tokenpulse_mw.ratelimit"
    assert record.message == f"keys.annotation('tenant') {MISSING}"


@pytest.mark.anyio
async def test_annotation_outside_the_exchange_is_the_key() -> None:
    """A middleware outside the exchange may annotate, such as one that authenticates."""
    seen: list[object] = []
    exchanges: list[Exchange] = []
    recorder = KeyRecorder(answering(), key=keys.annotation("tenant"), seen=seen)
    observed = ExchangeMiddleware(recorder, observers=[exchanges.append])

    async def authenticating(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, tenant="acme")
        await observed(scope, receive, send)

    await drive(authenticating)

    assert seen == ["acme"]
    assert [exchange.tenant for exchange in exchanges] == ["acme"]


@pytest.mark.anyio
async def test_annotation_without_an_exchange_is_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The annotation None is valid and not logged."""
    seen: list[object] = []
    recorder = KeyRecorder(answering(), key=keys.annotation("tenant"), seen=seen)

    for tenant in ("acme", None):
        scope = http_scope()
        annotate(scope, tenant=tenant)
        await drive(recorder, scope)

    assert seen == ["acme", None]
    assert not caplog.records


@pytest.mark.parametrize("field", ["tenant", "api_key", "credential"])
@pytest.mark.anyio
async def test_late_annotation_is_logged_once(field: str, caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint annotates after the limit was evaluated, so no request is limited."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        annotations: dict[str, Any] = {field: "acme"}
        annotate(scope, **annotations)
        await answering()(scope, receive, send)

    app = ExchangeMiddleware(
        RateLimitMiddleware(endpoint, limit="1/day", key=keys.annotation(field))
    )
    responses = [await drive(app, http_scope("/chat")) for _ in range(3)]

    assert [response.status for response in responses] == [200, 200, 200]
    assert caplog.messages == [
        f"keys.annotation('{field}') was evaluated before the application annotated it, {FIX}"
    ]


def test_late_annotation_of_a_dependency_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """FastAPI resolves dependencies inside of all middleware, so the warning names `limit()`."""

    def authenticate(request: Request) -> None:
        annotate(request, tenant="acme")

    app = FastAPI(dependencies=[Depends(authenticate)])
    app.add_api_route("/chat", lambda: "hi", methods=["POST"])
    policy = Policy("1/day", name="tenant", key=keys.annotation("tenant"))
    TokenPulse(settings=Settings(), inner_policies=[policy]).install(app)

    client = TestClient(app)
    assert [client.post("/chat").status_code for _ in range(3)] == [200, 200, 200]

    (record,) = [record for record in caplog.records if record.name == "tokenpulse_mw.ratelimit"]
    assert record.message.startswith("keys.annotation('tenant') was evaluated before")
    assert "Depends(pulse.limit(...))" in record.message


@pytest.mark.parametrize("field", ["tenant", "provider"])
@pytest.mark.anyio
async def test_missing_annotation_is_logged_once(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After 100 successful requests without an annotation, the limit has no effect."""
    app = ExchangeMiddleware(RateLimitMiddleware(answering(), key=keys.annotation(field)))

    for _ in range(99):
        assert (await drive(app, http_scope("/claude/chat"))).status == 200
    assert not caplog.records
    for _ in range(150):
        await drive(app, http_scope("/claude/chat"))
    assert caplog.messages == [f"keys.annotation({field!r}) {MISSING}"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/healthz", 200),
        ("GET", "/internal/ready", 200),
        ("GET", "/up", 200),
        ("POST", "/chat", 401),
        ("GET", "/chat", 307),
    ],
)
@pytest.mark.anyio
async def test_missing_annotation_of_probes_and_rejected_requests_is_not_logged(
    method: str, path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Probes have no tenant, and neither have requests that the application rejects."""
    app = ExchangeMiddleware(
        RateLimitMiddleware(
            answering(status=status), limit="2000/day", key=keys.annotation("tenant")
        )
    )

    for _ in range(1100):
        assert (await drive(app, http_scope(path, method=method))).status == status
    assert not caplog.records


@pytest.mark.anyio
async def test_missing_annotation_is_not_logged_after_an_annotation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Anonymous requests are not limited, if the application annotates other ones."""
    app = ExchangeMiddleware(RateLimitMiddleware(answering(), key=keys.annotation("tenant")))

    async def authenticating(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, tenant=scope["path"].removeprefix("/anonymous").strip("/"))
        await app(scope, receive, send)

    for path in ["/anonymous"] * 99 + ["/acme"] + ["/anonymous"] * 150:
        await drive(authenticating, http_scope(path))
    assert not caplog.records


@pytest.mark.anyio
async def test_late_annotation_is_not_logged_after_an_annotation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A login annotates its tenant late, which does not matter if other requests have a tenant."""

    async def authenticating(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/chat":
            annotate(scope, tenant="acme")
        await app(scope, receive, send)

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/login":
            await drive(authenticating, http_scope("/chat"))  # while the login is in progress
            annotate(scope, tenant="acme")
        await answering()(scope, receive, send)

    app = ExchangeMiddleware(RateLimitMiddleware(endpoint, key=keys.annotation("tenant")))
    await drive(authenticating, http_scope("/login"))

    assert not caplog.records


@pytest.mark.parametrize("field", ["master", "", "usage", None])
def test_unknown_field_is_rejected(field: str) -> None:
    """The error lists the fields."""
    with pytest.raises(
        ValueError, match="field must be one of tenant, api_key, credential, provider"
    ):
        keys.annotation(field)

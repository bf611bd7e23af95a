"""Keys: by header, by annotation, and joined."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.apps import Asks, answering
from tests.support.asgi import drive, http_scope
from tokenpulse_mw import ExchangeMiddleware, annotate
from tokenpulse_mw.ratelimit.client import client_address
from tokenpulse_mw.ratelimit.keys import annotated, header, join


def test_a_header_can_be_the_key() -> None:
    """Each value is a client, kept only as a hash; without the header there is no limit."""
    key = header("X-API-Key")
    secret = http_scope(headers=[(b"host", b"x"), (b"x-api-key", b"sk-secret")])

    assert key(secret) == key(secret) == key({**secret, "type": "websocket"})
    assert key(http_scope(headers=[(b"X-Api-Key", b"sk-secret")])) == key(secret)
    assert b"sk-secret" not in repr(key(secret)).encode()
    assert key(http_scope(headers=[(b"x-api-key", b"sk-other")])) != key(secret)
    assert header("x-other")({**secret, "headers": [(b"x-other", b"sk-secret")]}) != key(secret)
    assert key(http_scope()) is None


@pytest.mark.parametrize("name", ["", "  ", "x api", " x-api-key", "x-api-key:", "schlüssel", None])
def test_what_cannot_be_a_header_is_refused(name: str) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match=r"header name must be letters, .*, got"):
        header(name)


@pytest.mark.parametrize("field", ["master", "key", "credential", "provider", "model"])
@pytest.mark.anyio
async def test_what_the_application_annotated_can_be_the_key(field: str) -> None:
    """It is asked inside of whoever annotates; before that, and where nothing is, there is none."""
    seen: list[object] = []
    asks = Asks(answering(), key=annotated(field), seen=seen)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **{field: scope["path"].strip("/")})
        await asks(scope, receive, send)

    for path in ("/acme", "/", "/" + "x" * 1000):
        await drive(ExchangeMiddleware(app), http_scope(path))
    await drive(ExchangeMiddleware(asks))

    name, nothing, long, unannotated = seen
    assert (name, nothing, unannotated) == ("acme", None, None)
    assert isinstance(long, bytes)
    assert len(long) == 16


def test_a_limit_by_annotation_that_no_exchange_surrounds_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It limits nobody, and the log says what to do; WebSocket requests never have one."""
    key = annotated("master")

    assert key({"type": "websocket", "path": "/"}) is None
    assert not caplog.records
    assert [key(http_scope()), key(http_scope())] == [None, None]
    (record,) = caplog.records
    assert record.name == "tokenpulse_mw.ratelimit"
    assert record.message.startswith("annotated('master') finds no exchange, so it limits nobody: ")


@pytest.mark.parametrize("field", ["tenant", "", "usage", None])
def test_what_cannot_be_annotated_is_refused(field: str) -> None:
    """The error says what can be."""
    with pytest.raises(ValueError, match="field must be one of master, key, credential, provider"):
        annotated(field)


def test_keys_can_be_joined() -> None:
    """Each part counts; what leaves one out is still limited by the others."""
    key = join(client_address(), header("x-api-key"))
    headers = [(b"x-api-key", b"sk-1")]

    with_both = key(http_scope(headers=headers))
    assert with_both == key(http_scope(headers=headers)) != key(http_scope())
    assert key(http_scope()) == (bytes([192, 0, 2, 1]), None)
    assert join(header("a"), header("b"))(http_scope()) is None


def test_what_cannot_be_joined_is_refused() -> None:
    """The error says what came: too few, no function, or one that is async."""

    async def later(scope: Scope) -> str:
        raise AssertionError

    class Later:
        async def __call__(self, scope: Scope) -> str:
            raise AssertionError

    for keys in ([], [header("a")]):
        with pytest.raises(ValueError, match=f"join needs two keys or more, got {len(keys)}"):
            join(*keys)
    for bad in ("x-api-key", None, later, Later()):
        with pytest.raises(ValueError, match="key must be a function, and not async, got"):
            join(header("a"), bad)  # type: ignore[arg-type]

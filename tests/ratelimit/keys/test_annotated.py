"""The key of a limit by annotation."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.apps import Asks, answering
from tests.support.asgi import drive, http_scope
from tokenpulse_mw import ExchangeMiddleware, annotate
from tokenpulse_mw.ratelimit.keys import annotated


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
    assert isinstance(long, str)
    assert len(long) < 300


def test_a_limit_by_annotation_that_no_exchange_surrounds_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It limits nobody, and the log says what to do."""
    key = annotated("master")

    assert [key(http_scope()), key(http_scope())] == [None, None]
    (record,) = caplog.records
    assert record.name == "tokenpulse_mw.ratelimit"
    assert record.message.startswith("annotated('master') finds no exchange, so it limits nobody: ")


@pytest.mark.parametrize("field", ["tenant", "", "usage", None])
def test_what_cannot_be_annotated_is_refused(field: str) -> None:
    """The error says what can be."""
    with pytest.raises(ValueError, match="field must be one of master, key, credential, provider"):
        annotated(field)

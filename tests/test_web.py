"""The bearer guard."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from tests.support.asgi import http_scope
from tokenpulse_mw.web import bearer


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [
        (b"Bearer s3cret", True),
        (b"bearer s3cret", True),
        (b"Bearer   s3cret", True),
        (b"Bearer s3cret ", False),
        (b"Bearer s3cre", False),
        (b"Bearer \xa0", False),
        (b"Basic s3cret", False),
        (b"s3cret", False),
        (b"", False),
    ],
)
def test_only_the_token_itself_is_let_through(authorization: bytes, allowed: bool) -> None:
    """The scheme is needed, in any case; the token is compared to the letter."""
    request = Request(http_scope(headers=[(b"authorization", authorization)]))

    assert bearer("s3cret")(request) is allowed


def test_without_a_header_nobody_is_let_through() -> None:
    """A request that brings no token has none."""
    assert not bearer("s3cret")(Request(http_scope()))


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nend", "\xa0"])
def test_tokens_that_no_header_could_carry_are_refused(token: str) -> None:
    """An empty token would let everyone in; the error does not repeat the token."""
    with pytest.raises(ValueError, match="bearer token must be at least one character") as refused:
        bearer(token)
    assert not token or repr(token) not in str(refused.value)

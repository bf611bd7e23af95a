"""What is found out once, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.exchange import MAX_TEXT_CHARS
from tokenpulse_mw.ratelimit.callables import MAX_CACHED, cached
from tokenpulse_mw.ratelimit.paths import requests_to

from ..support.asgi import http_scope


def test_what_is_remembered_is_given_back() -> None:
    """The caller goes on with the value, and finds it in the memo the next time."""
    memo: dict[str, int] = {}

    assert cached(memo, "/v1/chat", 7) == 7
    assert memo == {"/v1/chat": 7}


def test_a_memo_begins_anew_when_it_is_full() -> None:
    """Whoever makes up new texts for ever takes no more room than the most it may hold."""
    memo: dict[str, int] = {}
    for number in range(MAX_CACHED + 1):
        cached(memo, f"/{number}", number)

    assert memo == {f"/{MAX_CACHED}": MAX_CACHED}


def test_what_is_long_is_not_remembered() -> None:
    """Else the room that a text takes would be up to a client."""
    memo: dict[str, int] = {}

    assert cached(memo, "x" * (MAX_TEXT_CHARS + 1), 7) == 7
    assert not memo


@given(
    paths=st.lists(st.sampled_from(["/health", "/health/../v1", "/v1", "/healthy", "/a/health"]))
)
def test_a_path_that_is_known_is_told_as_the_first_time(paths: list[str]) -> None:
    """Whatever was asked in between, and with whatever mount around the application."""
    known = requests_to("/health*")

    for path in paths:
        for root in ("", "/a"):
            scope = http_scope(path, root_path=root)
            assert known(scope) is requests_to("/health*")(scope)

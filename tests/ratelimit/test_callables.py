"""Bounded caches of user functions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.exchange import MAX_TEXT_CHARS
from tokenpulse_mw.ratelimit.callables import MAX_CACHED, cached
from tokenpulse_mw.ratelimit.paths import requests_to

from ..support.asgi import http_scope


def test_cached_value_is_returned_and_stored() -> None:
    """The value is returned, and is in the memo afterwards."""
    memo: dict[str, int] = {}

    assert cached(memo, "/v1/chat", 7) == 7
    assert memo == {"/v1/chat": 7}


def test_full_memo_drops_its_oldest_entries() -> None:
    """New texts never let the memo exceed its maximum size, and never empty it."""
    memo: dict[str, int] = {}
    sizes = []
    for number in range(3 * MAX_CACHED):
        cached(memo, f"/{number}", number)
        sizes.append(len(memo))

    assert max(sizes) == MAX_CACHED
    assert min(sizes[MAX_CACHED:]) >= MAX_CACHED * 0.9
    assert list(memo.values()) == list(range(3 * MAX_CACHED - len(memo), 3 * MAX_CACHED))


def test_long_text_is_not_stored() -> None:
    """A client must not control the memory that one entry takes."""
    memo: dict[str, int] = {}

    assert cached(memo, "x" * (MAX_TEXT_CHARS + 1), 7) == 7
    assert not memo


@given(
    paths=st.lists(st.sampled_from(["/health", "/health/../v1", "/v1", "/healthy", "/a/health"]))
)
def test_cached_condition_equals_a_new_condition(paths: list[str]) -> None:
    """The result for a path depends on neither earlier paths nor mounts."""
    reused = requests_to("/health*")

    for path in paths:
        for root in ("", "/a"):
            scope = http_scope(path, root_path=root)
            assert reused(scope) is requests_to("/health*")(scope)

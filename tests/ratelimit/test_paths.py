"""Exempt paths."""

from __future__ import annotations

import pytest

from tests.support.asgi import http_scope
from tokenpulse_mw.ratelimit.exempt import exempt_paths


@pytest.mark.parametrize(
    ("path", "exempt"),
    [
        ("/health", True),
        ("/health/ready", True),
        ("/metrics", True),
        ("/metrics/x", False),
        ("//health", False),
        ("/v1/health", False),
        ("/healthy/v1/chat", False),
        ("/health;x/v1/chat", False),
        ("/health/../v1/chat", False),
        ("/health/%2e%2e/v1/chat", False),
        ("/health//v1/chat", False),
        ("/probes/", True),
        ("/probes/a/b", True),
        ("/probes", False),
        ("/docs/", True),
        ("/docs/x", False),
        ("/", False),
    ],
)
def test_paths_match_whole_or_by_their_beginning(path: str, exempt: bool) -> None:
    """No trick with the path makes an ordinary request exempt."""
    matches = exempt_paths(["/health*", "/metrics", "/probes/*", "/docs/"])

    assert matches(http_scope(path)) is exempt


def test_a_root_path_is_taken_off_first() -> None:
    """Patterns are the application's own paths, not those of a proxy or a mount around it."""
    matches = exempt_paths(["/metrics"])

    assert matches(http_scope("/api/metrics", root_path="/api"))
    assert matches(http_scope("/api/metrics", root_path="/api", app_root_path=""))
    assert not matches(http_scope("/api/metrics"))


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["health"], "exempt path 'health' must begin with '/'"),
        (["/a*b"], r"exempt path '/a\*b' must .* may have '\*' only at its end"),
        ("/health", "exempt must be a list of paths, got the single string '/health'"),
    ],
)
def test_malformed_patterns_are_refused(patterns: list[str], said: str) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match=said):
        exempt_paths(patterns)

"""Conditions on paths and methods."""

from __future__ import annotations

import pytest

from tokenpulse_mw.ratelimit.paths import Condition, exempt_paths, requests_to

from ..support.asgi import http_scope


def exempt(*patterns: str) -> Condition:
    """Return the condition of `exempt_paths`."""
    condition = exempt_paths(patterns)
    assert condition is not None
    return condition


@pytest.mark.parametrize(
    ("path", "matched"),
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
def test_exempt_pattern_matches_exact_paths_and_paths_below(path: str, matched: bool) -> None:
    """A path that could be resolved to another path is not exempt."""
    matches = exempt("/health*", "/metrics", "/probes/*", "/docs/")

    assert matches(http_scope(path)) is matched


@pytest.mark.parametrize(
    ("method", "matched"),
    [("GET", True), ("HEAD", True), ("POST", False), ("OPTIONS", False), ("get", False)],
)
def test_exempt_path_matches_reads_only(method: str, matched: bool) -> None:
    """Other methods and WebSockets do not match."""
    scope = http_scope("/metrics", method=method)

    assert exempt("/metrics")(scope) is matched
    assert not exempt("/metrics")({**scope, "type": "websocket"})


def test_exempt_without_patterns_is_none() -> None:
    """A middleware without exempt paths evaluates no condition."""
    assert exempt_paths([]) is None


def test_root_path_is_removed_before_matching() -> None:
    """Patterns are paths of the application, without the prefix of a proxy or mount."""
    matches = exempt("/metrics")

    assert matches(http_scope("/api/metrics", root_path="/api"))
    assert matches(http_scope("/api/metrics", root_path="/api", app_root_path=""))
    assert not matches(http_scope("/api/metrics"))


@pytest.mark.parametrize(
    ("patterns", "error"),
    [
        (["health"], "exempt path must begin with '/' .*, got 'health'"),
        (["/a*b"], r"exempt path must .* may have '\*' only at its end, got '/a\*b'"),
        ("/health", r"exempt must be a list of strings, such as \['/health\*'\], got '/health'"),
        (None, "exempt must be a list of strings, .* got None"),
        ([5], r"exempt must be a list of strings, .* got \[5\]"),
    ],
)
def test_malformed_exempt_pattern_is_rejected(patterns: list[str], error: str) -> None:
    """The error names the parameter, the expected value and the value it got."""
    with pytest.raises(ValueError, match=error):
        exempt_paths(patterns)


@pytest.mark.parametrize(
    ("path", "method", "applies"),
    [
        ("/v1/chat", "POST", True),
        ("/v1/chat", "GET", False),
        ("/v1/ch%61t", "POST", True),
        ("/v1/ch%2561t", "POST", True),
        ("/v1/chat?x", "POST", True),
        ("/v1/chat#x", "POST", True),
        ("/v1/chat%3Fx", "POST", True),
        ("/v1/chat;x=1", "POST", True),
        ("/v1\\chat", "POST", True),
        ("/v1/chat\n", "POST", True),
        ("/v1%252Fchat", "POST", True),
        ("/files%2Fa", "POST", True),
        ("/v1/%63hatty", "POST", False),
        ("/%2525252525252561", "POST", False),
        ("/v1/chat/", "POST", True),
        ("//v1//chat", "POST", True),
        ("/x/../v1/./chat", "POST", True),
        ("/v1/chatty", "POST", False),
        ("/files/a/b", "POST", True),
        ("/files", "POST", True),
        ("/x/../files/a", "POST", True),
        ("/files/../x", "POST", True),
        ("/", "POST", False),
    ],
)
def test_requests_to_matches_every_form_of_a_path(path: str, method: str, applies: bool) -> None:
    """A path in another notation does not avoid the limit."""
    matches = requests_to("/v1/chat", "/files*", methods=["POST", "PUT"])

    assert matches(http_scope(path, method=method)) is applies


@pytest.mark.parametrize("path", ["/v1/chat/", "/v1/./chat", "//v1/chat", "/v1/x/../chat*"])
def test_pattern_in_another_notation_matches(path: str) -> None:
    """Patterns are normalized in the same way as paths."""
    assert requests_to(path)(http_scope("/v1//chat/"))
    assert requests_to(path)(http_scope("/v1/chat"))


def test_get_includes_head() -> None:
    """HEAD is served by the route of GET, so it matches too."""
    matches = requests_to("/items", methods=["GET"])

    assert matches(http_scope("/items", method="HEAD"))
    assert not matches(http_scope("/items", method="OPTIONS"))


def test_websocket_handshake_matches_get() -> None:
    """The scope of a WebSocket has no method."""
    scope = {"type": "websocket", "path": "/live", "headers": []}

    assert requests_to("/live")(scope)
    assert requests_to("/live", methods=["GET"])(scope)
    assert not requests_to("/live", methods=["POST"])(scope)


@pytest.mark.parametrize(
    ("paths", "methods", "error"),
    [
        ([], None, r"requests_to\(\) needs a path"),
        (["v1"], None, "path must begin with '/' .*, got 'v1'"),
        (["/v1"], "POST", r"methods must be a list of strings, such as \['POST'\], got 'POST'"),
        (["/v1"], [b"POST"], r"methods must be a list of strings, .* got \[b'POST'\]"),
        (["/v1"], ["post"], "method must be in upper case, such as 'POST', got 'post'"),
        (["/v1"], [], "methods must not be empty: leave it out for all methods"),
        ([5], None, "path must begin with '/' .*, got 5"),
    ],
)
def test_malformed_path_or_method_is_rejected(
    paths: list[str], methods: list[str] | None, error: str
) -> None:
    """The error names the parameter, the expected value and the value it got."""
    with pytest.raises(ValueError, match=error):
        requests_to(*paths, methods=methods)

"""Which requests a limit is meant for."""

from __future__ import annotations

import pytest

from tokenpulse_mw.ratelimit.paths import Condition, exempt_paths, requests_to

from ..support.asgi import http_scope


def exempt(*patterns: str) -> Condition:
    """The test for requests that `patterns` exempt."""
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
def test_paths_match_whole_or_by_their_beginning(path: str, matched: bool) -> None:
    """No trick with the path makes an ordinary request exempt."""
    matches = exempt("/health*", "/metrics", "/probes/*", "/docs/")

    assert matches(http_scope(path)) is matched


@pytest.mark.parametrize(
    ("method", "matched"),
    [("GET", True), ("HEAD", True), ("POST", False), ("OPTIONS", False), ("get", False)],
)
def test_exempt_path_matches_reads_only(method: str, matched: bool) -> None:
    """Other methods, and WebSockets, are limited."""
    scope = http_scope("/metrics", method=method)

    assert exempt("/metrics")(scope) is matched
    assert not exempt("/metrics")({**scope, "type": "websocket"})


def test_no_patterns_make_no_condition() -> None:
    """A middleware that exempts nothing does no work for it."""
    assert exempt_paths([]) is None


def test_a_root_path_is_taken_off_first() -> None:
    """Patterns are the application's own paths, not those of a proxy or a mount around it."""
    matches = exempt("/metrics")

    assert matches(http_scope("/api/metrics", root_path="/api"))
    assert matches(http_scope("/api/metrics", root_path="/api", app_root_path=""))
    assert not matches(http_scope("/api/metrics"))


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["health"], "exempt path 'health' must begin with '/'"),
        (["/a*b"], r"exempt path '/a\*b' must .* may have '\*' only at its end"),
        ("/health", r"exempt must be a list of paths, such as \['/health\*'\], got '/health'"),
        (None, "exempt must be a list of paths, .* got None"),
        ([5], "exempt path 5 must begin with '/'"),
    ],
)
def test_malformed_patterns_are_refused(patterns: list[str], said: str) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match=said):
        exempt_paths(patterns)


@pytest.mark.parametrize(
    ("path", "method", "meant"),
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
def test_a_policy_is_for_paths_and_methods(path: str, method: str, meant: bool) -> None:
    """No other spelling of a path gets around the limit on it."""
    matches = requests_to("/v1/chat", "/files*", methods=["POST", "PUT"])

    assert matches(http_scope(path, method=method)) is meant


@pytest.mark.parametrize("path", ["/v1/chat/", "/v1/./chat", "//v1/chat", "/v1/x/../chat*"])
def test_patterns_may_be_spelled_in_any_way_too(path: str) -> None:
    """As they mean a path, and not its letters."""
    assert requests_to(path)(http_scope("/v1//chat/"))
    assert requests_to(path)(http_scope("/v1/chat"))


def test_a_head_is_answered_by_the_route_of_get() -> None:
    """So it counts as one."""
    matches = requests_to("/items", methods=["GET"])

    assert matches(http_scope("/items", method="HEAD"))
    assert not matches(http_scope("/items", method="OPTIONS"))


def test_a_websocket_handshake_is_a_get() -> None:
    """It has no method of its own in its scope."""
    scope = {"type": "websocket", "path": "/live", "headers": []}

    assert requests_to("/live")(scope)
    assert requests_to("/live", methods=["GET"])(scope)
    assert not requests_to("/live", methods=["POST"])(scope)


@pytest.mark.parametrize(
    ("paths", "methods", "said"),
    [
        ([], None, r"requests_to\(\) needs a path"),
        (["v1"], None, "path 'v1' must begin with '/'"),
        (["/v1"], "POST", "methods must be a list of methods, got the single string 'POST'"),
        (["/v1"], ["post"], "method 'post' must be in upper case, such as 'POST'"),
        (["/v1"], [], "methods must not be empty: leave it out for all of them"),
        ([5], None, "path 5 must begin with '/'"),
    ],
)
def test_what_is_no_path_or_method_is_refused(
    paths: list[str], methods: list[str] | None, said: str
) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match=said):
        requests_to(*paths, methods=methods)

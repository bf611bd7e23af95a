"""Providers, and their resolution to a bounded set of labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Providers

from ..support.asgi import http_scope


@pytest.mark.parametrize("resolver", ["claude", 5])
def test_resolver_that_is_not_a_function_raises(resolver: object) -> None:
    """The error names the parameter and the value it got."""
    with pytest.raises(ValueError, match=rf"^resolver must be a function .*, got {resolver!r}$"):
        Providers(resolver=resolver)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "provider"),
    [
        ("/claude/v1/messages", "claude"),
        ("/api/Claude/v1/messages", "claude"),
        ("/v1beta/models/gemini-2.0-flash:generateContent", "gemini"),
        ("/openai/deployments/qwen-max/chat/completions", "qwen"),
        ("/v1/chat/completions", "unknown"),
        ("/claude-manual/index.html", "unknown"),
        ("/v1beta/models/geminix:generateContent", "unknown"),
        ("/" + "x" * 300 + "/claude", "unknown"),
    ],
)
def test_path_names_the_provider(path: str, provider: str) -> None:
    """A segment names it, or the model after `models` or `deployments` begins with it."""
    assert Providers().resolve(http_scope(path), None, None) == provider


@pytest.mark.parametrize(
    ("declared", "model", "resolved"),
    [
        ("gemini", "qwen-max", "gemini"),
        (None, "qwen-max", "claude"),
        ("undeclared", None, "other"),
        (" GEMINI", None, "gemini"),
    ],
)
def test_declared_provider_overrides_path_and_model(
    declared: str | None, model: str | None, resolved: str
) -> None:
    """A declared provider overrides the path, which overrides the model of the response."""
    scope = http_scope("/claude/v1/messages")

    assert Providers().resolve(scope, declared, model) == resolved


def test_model_decides_without_another_source() -> None:
    """The prefix of the model is the provider if no other source names one."""
    providers = Providers()

    assert providers.resolve(http_scope("/chat"), None, "claude-opus") == "claude"
    assert providers.resolve(http_scope("/chat"), None, "gpt-5") == "unknown"


def test_request_header_is_ignored_by_default() -> None:
    """The request header is read only with `request_header=True`, as any client can send it."""
    scope = http_scope(headers=[(b"host", b"x"), (b"x-tokenpulse-provider", b"qwen")])
    with_header = Providers(request_header=True)

    assert Providers().resolve(scope, None, None) == "unknown"
    assert with_header.resolve(scope, None, None) == "qwen"
    assert with_header.resolve(http_scope(), None, None) == "unknown"


@given(path=st.text(), declared=st.none() | st.text(), model=st.none() | st.text())
def test_label_is_always_declared_other_or_unknown(
    path: str, declared: str | None, model: str | None
) -> None:
    """No path, declared name or model leads to another label."""
    providers = Providers(["claude", "gemini"])

    label = providers.resolve(http_scope(path), declared, model)

    assert label in {"claude", "gemini", "other", "unknown"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Claude"], "provider name must be 1 to 64 lower-case .*, got 'Claude'"),
        ([""], "provider name must be .*, got ''"),
        (["a" * 65], "provider name must be 1 to 64 lower-case"),
        ([7], "provider name must be .*, got 7"),
        (["other"], "provider name must not be 'other', which is reserved"),
        (["claude", "claude"], "provider names must be unique, got 'claude' twice"),
        ([], "providers must have at least one name, got an empty list"),
        ("claude", "providers must be a list of strings, .*, got the string 'claude'"),
    ],
)
def test_invalid_names_raise(names: list[str], message: str) -> None:
    """The error names the expected names and the name it got."""
    with pytest.raises(ValueError, match=f"^{message}"):
        Providers(names)

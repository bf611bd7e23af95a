"""Providers: whose model answers, as a label that nobody can make up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Providers

from ..support.asgi import http_scope


@pytest.mark.parametrize("resolver", ["claude", 5])
def test_a_resolver_is_a_function(resolver: object) -> None:
    """The error says what came."""
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
def test_the_path_names_the_provider(path: str, provider: str) -> None:
    """A segment names it, or the model after `models` or `deployments` begins with it."""
    assert Providers().resolve(http_scope(path), None, None) == provider


@pytest.mark.parametrize(
    ("declared", "model", "resolved"),
    [
        ("gemini", "qwen-max", "gemini"),
        (None, "qwen-max", "claude"),
        ("nobody", None, "other"),
        (" GEMINI", None, "gemini"),
    ],
)
def test_what_the_application_declares_goes_first(
    declared: str | None, model: str | None, resolved: str
) -> None:
    """Then comes the path, and the model's name only where nothing else tells."""
    scope = http_scope("/claude/v1/messages")

    assert Providers().resolve(scope, declared, model) == resolved


def test_the_model_that_answered_tells_where_nothing_else_does() -> None:
    """A gateway with one path for all is told apart by its models."""
    providers = Providers()

    assert providers.resolve(http_scope("/chat"), None, "claude-opus") == "claude"
    assert providers.resolve(http_scope("/chat"), None, "gpt-5") == "unknown"


def test_a_request_header_counts_only_if_the_gateway_opts_in() -> None:
    """Any client can send it, so by default nobody reads it."""
    scope = http_scope(headers=[(b"host", b"x"), (b"x-tokenpulse-provider", b"qwen")])
    trusting = Providers(request_header=True)

    assert Providers().resolve(scope, None, None) == "unknown"
    assert trusting.resolve(scope, None, None) == "qwen"
    assert trusting.resolve(http_scope(), None, None) == "unknown"


@given(path=st.text(), declared=st.none() | st.text(), model=st.none() | st.text())
def test_the_label_is_always_one_of_a_closed_set(
    path: str, declared: str | None, model: str | None
) -> None:
    """Whatever path, header and model come, the label is declared, `other` or `unknown`."""
    providers = Providers(["claude", "gemini"])

    label = providers.resolve(http_scope(path), declared, model)

    assert label in {"claude", "gemini", "other", "unknown"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Claude"], "provider name 'Claude' is not usable"),
        ([""], "provider name '' is not usable"),
        (["a" * 65], "is not usable as a label"),
        ([7], "provider name 7 is not usable"),
        (["other"], "'other' is reserved"),
        (["claude", "claude"], "'claude' is given twice"),
        ([], "declare at least one"),
        ("claude", "must be a list of names, got the single string 'claude'"),
    ],
)
def test_malformed_names_are_refused(names: list[str], said: str) -> None:
    """The error says which name came, and what is expected."""
    with pytest.raises(ValueError, match=said):
        Providers(names)

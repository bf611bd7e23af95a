"""Providers, and their resolution to a bounded set of labels."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tokenpulse_mw import Exchange, ExchangeMiddleware, Providers, annotate

from ..support.asgi import http_scope
from ..support.memory import held_after
from ..support.waiting import max_cpu_time

Names = list[str] | Mapping[str, list[str]] | None


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
        ("undeclared", None, "other"),
        (" GEMINI", None, "gemini"),
        (None, "qwen-max", "qwen"),
        (None, "my-model", "claude"),
        (None, None, "claude"),
    ],
)
def test_declared_provider_overrides_the_model_and_the_model_the_path(
    declared: str | None, model: str | None, resolved: str
) -> None:
    """The order is declared provider, model of the response, and path."""
    scope = http_scope("/claude/v1/messages")

    assert Providers().resolve(scope, declared, model) == resolved


def test_resolver_overrides_the_model_and_leaves_the_rest_to_it() -> None:
    """A resolver decides before the model; if it returns None, model and path decide."""
    providers = Providers(
        ["claude", "codex"],
        resolver=lambda scope: "codex" if scope["path"] == "/codex-only" else None,
    )

    assert providers.resolve(http_scope("/codex-only"), None, "claude-opus-4") == "codex"
    assert providers.resolve(http_scope("/chat"), None, "claude-opus-4") == "claude"
    assert providers.resolve(http_scope("/claude/chat"), None, None) == "claude"


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o-2024-08-06", "openai"),
        ("o3-mini", "openai"),
        ("ft:gpt-4o-mini:acme::id", "openai"),
        ("openai/gpt-4o", "openai"),
        ("openai:my-own", "openai"),
        ("text-embedding-3-small", "openai"),
        ("claude-sonnet-4-20250514", "claude"),
        ("anthropic/claude-sonnet-4", "claude"),
        ("gemini-2.0-flash", "gemini"),
        ("models/gemini-2.5-pro", "gemini"),
        ("google/gemma-3-27b-it:free", "gemini"),
        ("mistral-large", "mistral"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("codestral-latest", "mistral"),
        ("llama-3", "meta"),
        ("together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo", "meta"),
        ("accounts/fireworks/models/llama-v3p1-8b-instruct", "meta"),
        ("deepseek-chat", "deepseek"),
        ("grok-4", "xai"),
        ("x-ai/grok-4", "xai"),
        ("command-r-plus", "cohere"),
        ("qwen2.5-coder:32b", "qwen"),
        ("QwQ-32B", "qwen"),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", "bedrock"),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "bedrock"),
        ("amazon.nova-lite-v1:0", "bedrock"),
        ("arn:aws:bedrock:us-east-1:123:inference-profile/us.amazon.nova-pro-v1:0", "bedrock"),
        ("azure/gpt-4o", "azure"),
        ("vertex_ai/claude-sonnet-4", "vertex"),
        ("github_copilot/gpt-4o", "copilot"),
        ("openrouter/deepseek/deepseek-r1", "openrouter"),
        ("moonshotai/kimi-k2.5", "unknown"),
        ("gptish", "unknown"),
        ("o1x", "unknown"),
        ("my-model", "unknown"),
    ],
)
def test_model_of_a_well_known_vendor_names_the_provider(model: str, provider: str) -> None:
    """Without declared providers, the ids of vendors, hosts, OpenRouter and LiteLLM are known."""
    assert Providers().resolve(http_scope("/v1/chat/completions"), None, model) == provider


@pytest.mark.parametrize(
    ("names", "model", "provider"),
    [
        (["openai", "anthropic"], "claude-sonnet-4", "anthropic"),
        (["openai", "anthropic"], "us.anthropic.claude-3-5-sonnet-20241022-v2:0", "anthropic"),
        (["openai", "anthropic"], "azure/gpt-4o", "openai"),
        (["openai", "anthropic"], "openrouter/anthropic/claude-sonnet-4", "anthropic"),
        (["openai", "anthropic"], "mistral-large", "unknown"),
        (["claude", "gemini", "codex"], "claude-sonnet-4", "claude"),
        (["claude", "gemini", "codex"], "google/gemma-3-27b-it", "gemini"),
        (["claude", "gemini", "codex"], "gpt-4o", "codex"),
        (["claude", "gemini", "codex"], "openai/my-own", "codex"),
        (["codex", "openai"], "gpt-4o", "openai"),
        (["anthropic", "bedrock"], "anthropic.claude-3-5-sonnet-20240620-v1:0", "bedrock"),
        (["openai", "acme"], "acme-large", "acme"),
    ],
)
def test_model_leads_to_a_declared_provider_only(
    names: list[str], model: str, provider: str
) -> None:
    """A declared host comes before the vendor, and a vendor has the names of the seed, too."""
    assert Providers(names).resolve(http_scope("/v1/chat/completions"), None, model) == provider


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "azure"),
        ("openai/GPT-4o-mini", "openai"),
        ("o3-mini", "openai"),
        ("llama3:8b", "local"),
        ("phi-4", "local"),
        ("claude-sonnet-4", "anthropic"),
        ("grok-4", "unknown"),
    ],
)
def test_patterns_of_a_mapping_precede_the_built_in_ones(model: str, provider: str) -> None:
    """Patterns are shell patterns without regard to case; built-in patterns remain."""
    providers = Providers(
        {"azure": ["gpt-4o"], "openai": [], "local": ["llama3*", "PHI-?"], "anthropic": []}
    )

    assert providers.resolve(http_scope("/v1/chat/completions"), None, model) == provider


@pytest.mark.parametrize(
    ("names", "path", "model", "provider"),
    [
        (["kiro", "claude"], "/kiro/v1/messages", "claude-sonnet-4", "kiro"),
        (["azure", "openai"], "/azure/chat/completions", "gpt-4o", "azure"),
        ({"kiro": ["amazonq-*"], "claude": []}, "/kiro/v1/messages", "claude-4", "claude"),
        (["openai", "codex"], "/codex/v1/responses", "gpt-5", "codex"),
        (["openai", "meta"], "/openai/v1/chat/completions", "llama-3.3-70b", "meta"),
        (["bedrock", "anthropic"], "/model/anthropic.claude-v2/invoke", "claude-2.1", "bedrock"),
    ],
)
def test_path_decides_between_providers_of_the_same_model(
    names: list[str], path: str, model: str, provider: str
) -> None:
    """A host in the path, or another name of the vendor, is more exact than the model."""
    assert Providers(names).resolve(http_scope(path), None, model) == provider


@pytest.mark.parametrize(
    ("names", "path", "provider"),
    [
        (["anthropic"], "/claude/v1/messages", "anthropic"),
        (["claude"], "/anthropic/v1/messages", "claude"),
        (["codex", "openai"], "/openai/v1/responses", "openai"),
        (["openai"], "/azure/deployments/gpt-4o/chat/completions", "openai"),
        (["anthropic"], "/model/us.anthropic.claude-v2:1/converse", "anthropic"),
        ({"local": ["phi-4"]}, "/v1beta/models/phi-4:generateContent", "local"),
        (["google"], "/auth/google/callback", "google"),
        (None, "/anthropic/v1/messages", "claude"),
        (None, "/openai/v1/responses", "openai"),
        (None, "/auth/google/callback", "unknown"),
        (None, "/api/meta", "unknown"),
        (None, "/models/list", "unknown"),
    ],
)
def test_path_names_a_declared_provider_by_any_name_of_its_vendor(
    names: list[str] | None, path: str, provider: str
) -> None:
    """Common words, such as `google`, count in paths only if they are declared."""
    assert Providers(names).resolve(http_scope(path), None, None) == provider


@pytest.mark.parametrize(
    "model",
    ["/" * 100_000, "a." * 100_000, "gpt4" * 100_000, "\ud800" * 300, "\x00gpt-4o", "İ" * 300],
)
def test_hostile_model_costs_bounded_time_and_memory(model: str) -> None:
    """Only the first characters and prefixes of a model are read, and few are cached."""
    providers = Providers({"a": ["*a*b*c*d*e*f*g*h*i*j*k"], "b": ["x" + "*" * 127]})
    scope, numbers = http_scope("/chat"), iter(range(2000))

    with max_cpu_time(5):
        held = held_after(2000, lambda: providers.resolve(scope, None, f"{next(numbers)}{model}"))

    assert held < 2_000_000


async def failing_chat(request: Request) -> Response:
    """Fail without a model if the upstream does, else respond with the model of the path."""
    if request.url.path == "/v1/chat/completions":
        return JSONResponse({"error": {"message": "overloaded"}}, 529)
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    return JSONResponse({"model": request.path_params["model"], "choices": [], "usage": usage})


def chat_gateway(names: Names, seen: list[Exchange], *more: Route) -> ExchangeMiddleware:
    """Return a gateway with one path for all vendors, whose exchanges are appended to `seen`."""
    chat = Route("/v1/chat/completions", failing_chat, methods=["POST"])
    other = Route("/reply/{model}", failing_chat, methods=["GET", "POST"])
    routes = [chat, other, *more]
    return ExchangeMiddleware(
        Starlette(routes=routes), observers=[seen.append], provider=Providers(names)
    )


@pytest.mark.parametrize(
    ("method", "path", "provider"),
    [
        ("POST", "/v1/chat/completions", "openai"),
        ("POST", "/reply/our-own-model", "openai"),
        ("POST", "/reply/gpt-4o", "openai"),
        ("GET", "/reply/our-own-model", "unknown"),
        ("POST", "/wp-login.php", "unknown"),
    ],
)
@pytest.mark.parametrize("names", [["openai"], {"openai": ["gpt-*"]}])
def test_only_provider_is_the_fallback(
    names: Names, method: str, path: str, provider: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure without a model counts for the only provider; pages and probes do not."""
    seen: list[Exchange] = []
    client = TestClient(chat_gateway(names, seen))

    for _ in range(12):
        client.request(method, path)
    assert {exchange.provider for exchange in seen} == {provider}
    assert not caplog.records


def test_fallback_is_the_provider_of_an_annotated_model() -> None:
    """A request of any method with an unknown model belongs to the only provider."""
    seen: list[Exchange] = []

    async def image(request: Request) -> Response:
        annotate(request, model="our-own-model")
        return Response("image")

    TestClient(chat_gateway(["openai"], seen, Route("/image", image))).get("/image")
    assert [exchange.provider for exchange in seen] == ["openai"]


def test_fallback_does_not_make_a_page_the_response_of_a_model() -> None:
    """A form that responds with JSON has no usage, so it does not count as missing."""
    seen: list[Exchange] = []

    async def login(request: Request) -> Response:
        return JSONResponse({"ok": True})

    TestClient(chat_gateway(["openai"], seen, Route("/login", login, methods=["POST"]))).post(
        "/login"
    )
    assert [exchange.usage_source for exchange in seen] == [None]


def test_failures_without_a_provider_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """If several providers are declared, errors must name theirs: the warning states how."""
    client = TestClient(chat_gateway(["openai", "anthropic"], []))

    for _ in range(9):
        client.post("/reply/our-own-model")
        client.post("/v1/chat/completions")
    assert not caplog.records
    for _ in range(20):
        client.post("/v1/chat/completions")
    assert caplog.messages == [
        "failures have no provider, so alerts such as provider_down do not count them (logged "
        "once): route=/v1/chat/completions failures=10; errors name no model, so name the "
        "provider in the application: by the response header x-tokenpulse-provider, or by "
        "annotate(request, provider=...) or annotate(request, model=...)"
    ]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tokenpulse_mw.exchange", "WARNING")


@pytest.mark.parametrize("names", [None, ["openai", "anthropic"]])
@pytest.mark.parametrize(
    ("method", "facts", "status"),
    [
        ("GET", {}, 500),
        ("POST", {}, 404),
        ("POST", {"credential": "c1"}, 500),
        ("POST", {"provider": "openai"}, 500),
        ("POST", {"model": "gpt-4o"}, 500),
    ],
)
def test_failures_that_need_no_provider_are_not_logged(
    names: list[str] | None,
    method: str,
    facts: dict[str, str],
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pages have no provider, client errors show no failure, and a credential is enough."""

    async def page(request: Request) -> Response:
        annotate(request, **facts)  # type: ignore[arg-type]
        return Response(status_code=status)

    client = TestClient(chat_gateway(names, [], Route("/page", page, methods=["GET", "POST"])))
    for _ in range(20):
        client.request(method, "/page")
        client.post("/missing")
    assert not caplog.records


def test_failures_of_a_route_that_succeeds_without_a_model_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A form of the application has no provider, so its failures need none."""
    statuses = iter([200] + [500] * 20)

    async def login(request: Request) -> Response:
        return Response(status_code=next(statuses))

    route = Route("/login", login, methods=["POST"])
    client = TestClient(chat_gateway(["openai", "anthropic"], [], route))
    for _ in range(21):
        client.post("/login")
    assert not caplog.records


def test_listed_are_the_declared_providers() -> None:
    """Names are listed in their order, also those of a mapping."""
    assert Providers(["b", "a"]).listed() == ["b", "a"]
    assert Providers({"b": ["b*"], "a": []}).listed() == ["b", "a"]


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
        (5, "providers must be a list of strings, .*, got 5"),
        ({}, "providers must have at least one name"),
        ({"Openai": ["gpt-*"]}, "provider name must be .*, got 'Openai'"),
        ({"openai": "gpt-*"}, "models of provider 'openai' must be a list .*, got 'gpt-[*]'"),
        ({"openai": [7]}, r"models of provider 'openai' must be a list .*, got \[7\]"),
        ({"openai": [""]}, r"models of provider 'openai' must be .*, got \[''\]"),
        ({"openai": ["x" * 129]}, "models of provider 'openai' must be .* of 1 to 128 characters"),
        ({"openai": None}, "models of provider 'openai' must be .*, got None"),
    ],
)
def test_invalid_names_raise(names: list[str], message: str) -> None:
    """The error names the expected names and the name it got."""
    with pytest.raises(ValueError, match=f"^{message}"):
        Providers(names)

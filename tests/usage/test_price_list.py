"""Price list of genai-prices: the same prices, without its time and memory."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any

import genai_prices
import pytest
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, TimeOfDateConstraint
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.exchange.vendors import HOSTS
from tokenpulse_mw.exchange.vendors import PROVIDERS as OUR_PROVIDERS
from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.price_list import PROVIDERS
from tokenpulse_mw.usage.prices import MAX_PAIRS, REFRESH_SECONDS, Prices
from tokenpulse_mw.usage.rates import Cost, Rates

from .bodies import measure
from .test_recordings import body, every_recording

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
MANY = TokenUsage(input=1_000_000, output=1_000_000)


def listed(now: datetime = NOW) -> Prices:
    """Return the prices of the list alone, at a fixed time."""
    return Prices(price_list="genai-prices", clock=now.timestamp)


def library_nanos(
    provider: str | None, model: str, usage: TokenUsage, now: datetime = NOW
) -> int | None:
    """Return what the library itself calculates, in nano-dollars rounded up, or None."""
    overlap = usage.cache_read + usage.cache_write + usage.audio_input - usage.input
    counts = {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "cache_write_1h_tokens": usage.cache_write_1h,
        "input_audio_tokens": usage.audio_input,
        "output_audio_tokens": usage.audio_output,
        "cache_audio_read_tokens": max(overlap, 0),
        "output_reasoning_tokens": usage.reasoning,
        "web_searches": usage.searches,
    }
    try:
        price = genai_prices.calc_price(
            genai_prices.Usage(**counts),
            model,
            provider_id=provider,
            genai_request_timestamp=now,
        )
    except LookupError:
        return None
    if not {name: rate for name, rate in vars(price.model_price).items() if rate is not None}:
        return None  # no price at all, which the library counts as 0
    with localcontext(prec=60):
        return int((price.total_price * 10**9).to_integral_value(ROUND_CEILING))


def nanos(cost: Cost | None) -> int | None:
    """Return the nano-dollars of a cost, or None."""
    return None if cost is None else cost.nanos


def models() -> Iterator[tuple[str, str]]:
    """Yield each provider and model of the list that can be found by its id."""
    providers = data_snapshot.get_snapshot().providers
    for provider in providers:
        for model in provider.models:
            if provider.find_model(model.id, all_providers=providers) is not None:
                yield provider.id, model.id


@pytest.mark.slow
def test_cost_of_every_listed_model_equals_that_of_the_library() -> None:
    """For each model, each tier and each kind of tokens, the compiled cost is the library's."""
    prices = Prices(price_list="genai-prices", clock=NOW.timestamp)
    usages = [
        TokenUsage(1_234, 567),
        TokenUsage(1_234_567, 89_012, cache_read=1_000, cache_write=700, cache_write_1h=300),
        TokenUsage(250_001, 9_999, audio_input=5_001, audio_output=77, cache_read=11),
        TokenUsage(128_000, 64_000, reasoning=3_200, searches=7),
        TokenUsage(100, 5, cache_read=90, audio_input=50),
    ]
    wrong = []
    priced = 0
    for provider, model in models():
        for usage in usages:
            own = nanos(prices.cost(provider, model, usage))
            expected = library_nanos(provider, model, usage)
            if expected is None and model.endswith(":free"):
                expected = 0
            if own != (expected or None) and not (own == expected == 0):
                wrong.append((provider, model, usage, own, expected))
            priced += own is not None
        prices._known.clear()

    assert priced > 10_000
    assert wrong == []


HOST_PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "claude",
    "generativelanguage.googleapis.com": "gemini",
    "aiplatform.googleapis.com": "vertex",
    "openrouter.ai": "openrouter",
    "bedrock-runtime.us-east-1.amazonaws.com": "bedrock",
    "bedrock-mantle.us-east-1.api.aws": "bedrock",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral",
    "api.cerebras.ai": "cerebras",
    "pydanticai7521574644.openai.azure.com": "azure",
    "pydantic-ai-realtime-dev.openai.azure.com": "azure",
}


@every_recording
def test_cost_of_recording_equals_that_of_the_library(entry: dict[str, Any]) -> None:
    """A recorded response costs what the library says; what OpenRouter reports is taken."""
    content_type, data = body(entry)
    account = measure(content_type, [data])
    model = account.model
    if account.usage is None or model is None:
        pytest.skip("no usage or no model")
    provider = HOST_PROVIDERS.get(entry["host"], "other")

    expected = library_nanos(
        PROVIDERS.get(provider, provider if provider != "other" else None), model, account.usage
    )
    own = listed().cost(provider, model, account.usage)
    if not model.endswith(":free"):
        assert nanos(own) == expected
    if entry["host"] == "openrouter.ai":
        figure = re.search(rb'"cost": ?([0-9.e-]+)', data)
        reported = None if figure is None else int(Decimal(figure[1].decode()) * 10**9)
        assert account.cost_nanos == reported


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("claude", "claude-sonnet-4-5", "anthropic"),
        ("anthropic", "claude-sonnet-4-5-20250929", "anthropic"),
        ("gemini", "gemini-2.5-flash", "google"),
        ("aistudio", "gemini-2.5-flash", "google"),
        ("vertex", "gemini-2.5-flash", "google"),
        ("codex", "gpt-5", "openai"),
        ("OpenAI", "GPT-5-mini", "openai"),
        ("xai", "grok-4.3", "x-ai"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "aws"),
        ("openrouter", "anthropic/claude-sonnet-4.5", "openrouter"),
        ("groq", "llama-3.3-70b-versatile", "groq"),
        ("other", "gpt-5-mini", None),
        ("unknown", "claude-sonnet-4-5", None),
        ("kiro", "claude-sonnet-4-5", None),
        ("antigravity", "gemini-2.5-flash", None),
        ("a-gateway-of-ours", "gpt-5-mini", None),
    ],
)
def test_price_is_that_of_the_provider(provider: str, model: str, expected: str | None) -> None:
    """Each provider has the prices of its own entry in the list, others those of the name."""
    assert listed().cost(provider, model, MANY) is not None
    assert nanos(listed().cost(provider, model, MANY)) == library_nanos(expected, model, MANY)


def test_provider_decides_and_not_the_name_alone() -> None:
    """A provider whose entry does not have the model has no price for it."""
    assert listed().cost("openrouter", "gpt-4o-that-is-not-listed", MANY) is None
    assert listed().cost("mistral", "claude-sonnet-4-5", MANY) is None


@pytest.mark.parametrize("model", ["openai/gpt-5-mini", "vertex_ai/gemini-2.5-flash", "gpt-5-mini"])
def test_provider_in_the_name_counts_behind_litellm(model: str) -> None:
    """LiteLLM may write the provider before the name of the model; others write the vendor."""
    expected = library_nanos("litellm", model, MANY)

    assert expected is not None
    assert nanos(listed().cost("litellm", model, MANY)) == expected
    assert nanos(listed().cost("other", model, MANY)) == library_nanos(None, model, MANY)


@pytest.mark.parametrize("model", ["my-model", "made/up", "/", "gpt-", "meta/nothing"])
def test_unknown_model_has_no_price(model: str) -> None:
    """A model that is not in the list has no cost, and not 0."""
    assert listed().cost("other", model, MANY) is None


def test_providers_of_ours_are_mapped_to_existing_ones() -> None:
    """Each name of a provider that we know leads to an entry of the list, or to the names alone."""
    ids = {provider.id for provider in data_snapshot.get_snapshot().providers}
    ours = {*OUR_PROVIDERS, *HOSTS, "anthropic", "google"}

    assert {name for name in ours if PROVIDERS.get(name, name) not in {*ids, None}} == set()


def test_table_precedes_the_list() -> None:
    """The application's own prices count before those of the list."""
    prices = Prices({"gpt-5*": Rates(input=7, output=0)}, price_list="genai-prices")

    assert prices.cost("openai", "gpt-5", MANY) == Cost(7 * 10**9)
    assert nanos(prices.cost("openai", "gpt-4o", MANY)) == library_nanos("openai", "gpt-4o", MANY)


def test_free_model_of_openrouter_is_free() -> None:
    """A model that is free by its name costs 0; another one without prices is unknown."""
    assert listed().cost("openrouter", "minimax/minimax-m2:free", MANY) in (Cost(0), None)
    assert listed().cost("openrouter", "qwen/qwen3-coder:free", MANY) == Cost(0)
    assert listed().cost("copilot", "gpt-4o", MANY) is None


@pytest.mark.parametrize(
    ("provider", "model", "usage", "is_minimum"),
    [
        ("openai", "gpt-4.1", TokenUsage(9, 9), False),
        ("openai", "gpt-4.1", TokenUsage(9, 9, searches=1), False),
        ("deepseek", "deepseek-chat", TokenUsage(9, 9, searches=1), True),
        ("gemini", "gemini-2.5-flash-image", TokenUsage(9, 9), True),
        ("openai", "text-embedding-3-small", TokenUsage(9), False),
        ("openai", "text-embedding-3-small", TokenUsage(9, 9), True),
    ],
)
def test_cost_is_a_minimum_if_a_part_has_no_price(
    provider: str, model: str, usage: TokenUsage, is_minimum: bool
) -> None:
    """Searches without a price, and output that may be images, cost at least the tokens."""
    cost = listed().cost(provider, model, usage)

    assert cost is not None
    assert cost.is_minimum is is_minimum


def test_model_with_prices_of_other_units_only_is_unknown() -> None:
    """Seconds of audio cannot be derived from tokens."""
    assert listed().cost("groq", "whisper-large-v3", MANY) is None


def test_prices_change_at_the_time_of_day_that_the_list_states() -> None:
    """The first request after a change has the new price."""
    now = datetime(2025, 6, 1, 16, 29, 59, tzinfo=UTC)
    prices = Prices(price_list="genai-prices", clock=lambda: now.timestamp())
    costs = []

    for _ in range(3):
        costs.append(nanos(prices.cost("deepseek", "deepseek-chat", MANY)))
        assert costs[-1] == library_nanos("deepseek", "deepseek-chat", MANY, now)
        now += timedelta(seconds=1)

    assert costs[0] != costs[1] == costs[2]


def test_prices_change_at_the_date_that_the_list_states() -> None:
    """A new price is effective from midnight UTC on."""
    now = datetime(2026, 4, 29, 23, 59, 59, tzinfo=UTC)
    prices = Prices(price_list="genai-prices", clock=lambda: now.timestamp())
    before = nanos(prices.cost("xai", "grok-4.20", MANY))
    assert before == library_nanos("x-ai", "grok-4.20", MANY, now)

    now += timedelta(seconds=1)
    after = nanos(prices.cost("xai", "grok-4.20", MANY))

    assert after == library_nanos("x-ai", "grok-4.20", MANY, now)
    assert after != before


def test_times_of_the_list_are_quarters_of_an_hour() -> None:
    """Pairs are compiled again at each quarter of an hour, which is when listed prices change."""
    times: set[time] = set()
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            prices = [] if isinstance(model.prices, ModelPrice) else model.prices
            for price in prices:
                if isinstance(price.constraint, TimeOfDateConstraint):
                    times |= {price.constraint.start_time, price.constraint.end_time}

    assert times
    assert {(at.minute * 60 + at.second) % REFRESH_SECONDS for at in times} == {0}


@pytest.fixture
def snapshot() -> Iterator[data_snapshot.DataSnapshot]:
    """Return a new snapshot of the list, whose caches are empty."""
    own = data_snapshot.DataSnapshot(data_snapshot.get_snapshot().providers, from_auto_update=False)
    data_snapshot.set_custom_snapshot(own)
    yield own
    data_snapshot.set_custom_snapshot(None)


def test_made_up_names_leave_nothing_behind(snapshot: data_snapshot.DataSnapshot) -> None:
    """Any number of names leaves a bounded number of entries, and none in the package."""
    prices = listed()

    for number in range(MAX_PAIRS):
        prices.cost("other", f"gpt-4o-{number}", MANY)
    late = prices.cost("openai", "gpt-5", MANY)

    assert late is None
    assert len(prices._known) == MAX_PAIRS
    assert (snapshot._lookup_cache, snapshot._provider_cache) == ({}, {})
    assert snapshot._provider_misses == set()


def test_flood_of_names_ends_with_the_quarter_of_an_hour() -> None:
    """A model that came too late in a flood has a price after the next refresh."""
    now = NOW.timestamp()
    prices = Prices(price_list="genai-prices", clock=lambda: now)
    for number in range(MAX_PAIRS):
        prices.cost("other", f"\n{number}", MANY)
    assert prices.cost("openai", "gpt-5", MANY) is None

    now += REFRESH_SECONDS

    assert prices.cost("openai", "gpt-5", MANY) is not None


@given(st.text(max_size=220), st.text(max_size=220))
def test_any_names_have_a_price_or_none(provider: str, model: str) -> None:
    """No name raises an error."""
    assert PRICES.cost(provider, model, MANY) is None or model


PRICES = Prices(price_list="auto")


@pytest.mark.parametrize("model", ["gpt-5\n", "gpt-5\x00", "gpt-\u0665", "gpt-5" + "x" * 200])
def test_name_that_no_model_has_is_not_looked_up(model: str) -> None:
    """Control characters, other scripts and long names are no names of models."""
    assert listed().cost("openai", model, MANY) is None


def test_update_of_the_list_is_used_after_a_refresh(
    snapshot: data_snapshot.DataSnapshot,
) -> None:
    """A newer list, as the package may fetch it, counts from the next quarter of an hour on."""
    now = NOW.timestamp()
    prices = Prices(price_list="genai-prices", clock=lambda: now)
    assert prices.cost("openai", "gpt-5", MANY) is not None

    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot([], from_auto_update=True))
    now += REFRESH_SECONDS

    assert prices.cost("openai", "gpt-5", MANY) is None


def test_invalid_price_of_the_list_is_an_error_once(snapshot: data_snapshot.DataSnapshot) -> None:
    """A broken list is reported for the first response; later ones have no cost."""
    (openai,) = [entry for entry in snapshot.providers if entry.id == "openai"]
    found = openai.find_model("gpt-5")
    assert found is not None
    broken = type(found)(id="gpt-5", match=found.match, prices=ModelPrice(input_mtok=Decimal(-1)))
    own = type(openai)(id="openai", name="", api_pattern="", models=[broken])
    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot([own], from_auto_update=True))
    prices = listed()

    with pytest.raises(ValueError, match=r"^input must be a number of US dollars"):
        prices.cost("openai", "gpt-5", MANY)

    assert prices.cost("openai", "gpt-5", MANY) is None


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the package of the list."""
    for name in ("genai_prices", "genai_prices.data_snapshot", "genai_prices.types"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without_package")
def test_list_without_its_package_is_an_error() -> None:
    """The error says what to install."""
    with pytest.raises(ImportError, match=re.escape("pip install 'tokenpulse-mw[cost]'")):
        Prices(price_list="genai-prices")


@pytest.mark.usefixtures("without_package")
def test_auto_without_the_package_uses_the_table_alone() -> None:
    """`auto` takes the list if it is installed, and otherwise only the table."""
    prices = Prices({"gpt-5": Rates(input=1, output=0)}, price_list="auto")

    assert prices.cost("openai", "gpt-5", MANY) == Cost(10**9)
    assert prices.cost("openai", "gpt-4o", MANY) is None

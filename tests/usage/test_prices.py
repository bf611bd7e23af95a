"""Prices of models by the table of the application."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.prices import MAX_LOGGED, MAX_PAIRS, REFRESH_SECONDS, Prices
from tokenpulse_mw.usage.rates import Cost, Rates

ONE = TokenUsage(input=1_000_000)


def priced(usd: int) -> Rates:
    """Return rates by which `ONE` costs this many dollars."""
    return Rates(input=usd, output=0)


def dollars(prices: Prices, provider: str, model: str | None) -> int | None:
    """Return the dollars that `ONE` costs, or None."""
    cost = prices.cost(provider, model, ONE)
    return None if cost is None else int(cost.usd)


def test_price_is_that_of_the_model() -> None:
    """The rates of the model's entry give the cost of a response."""
    prices = Prices({"gpt-5": Rates(input="1.25", output=10)})

    assert prices.cost("openai", "gpt-5", TokenUsage(1000, 100)) == Cost(2_250_000)


@pytest.mark.parametrize("model", ["gpt-4", "gpt-5-mini", "", None])
def test_price_of_other_model_is_unknown(model: str | None) -> None:
    """A model without an entry, and a response without a model, have no cost, and not 0."""
    assert Prices({"gpt-5": priced(1)}).cost("openai", model, ONE) is None


def test_table_may_be_absent() -> None:
    """Without a table and a list every cost is unknown."""
    assert Prices().cost("openai", "gpt-5", ONE) is None


@pytest.mark.parametrize(
    ("provider", "model", "usd"),
    [
        ("openai", "gpt-5", 1),
        ("openai", "gpt-5-pro", 2),
        ("openai", "gpt-5-mini", 3),
        ("openai", "gpt-4o", 4),
        ("openai", "o3", 5),
        ("azure", "gpt-5", 6),
        ("azure", "gpt-5-mini", 6),
        ("azure", "gpt-6", 7),
        ("azure", "o3", 8),
    ],
)
def test_most_specific_entry_is_selected(provider: str, model: str, usd: int) -> None:
    """The provider's own entries come first, then names, then the longest pattern."""
    prices = Prices(
        {
            "*": priced(5),
            "gpt-*": priced(4),
            "gpt-5*": priced(2),
            "gpt-5-min*": priced(3),
            "gpt-5": priced(1),
            ("azure", "*"): priced(8),
            ("azure", "gpt-?"): priced(7),
            ("azure", "gpt-5*"): priced(6),
        }
    )

    assert dollars(prices, provider, model) == usd


def test_first_of_equal_entries_is_selected() -> None:
    """Of two patterns of the same length, the first in the table counts."""
    assert dollars(Prices({"gpt-*": priced(1), "*-5o1": priced(2)}), "openai", "gpt-5o1") == 1
    assert dollars(Prices({"*-5o1": priced(2), "gpt-*": priced(1)}), "openai", "gpt-5o1") == 2
    assert dollars(Prices({"gpt-?": priced(1), "?pt-5": priced(2)}), "openai", "gpt-5") == 1


letters = st.sampled_from("aB-")
patterns = st.text(st.sampled_from("aB-*?"), min_size=1, max_size=5)
providers = st.sampled_from(["openai", "Azure"])
keys = patterns | st.tuples(providers, patterns)


@given(st.lists(keys, max_size=8, unique=True), providers, st.text(letters, min_size=1, max_size=4))
def test_any_table_selects_the_documented_entry(
    table: list[str | tuple[str, str]], provider: str, model: str
) -> None:
    """For any table, the selected entry is the first by the documented order of precedence."""
    prices = Prices({key: priced(index) for index, key in enumerate(table)})

    ranked = []
    for index, key in enumerate(table):
        only, pattern = key if isinstance(key, tuple) else (None, key)
        if only in (None, provider) and fnmatchcase(model.lower(), pattern.lower()):
            is_pattern = "*" in pattern or "?" in pattern
            ranked.append((only is None, is_pattern, -len(pattern), index))
    assert dollars(prices, provider, model) == (min(ranked)[-1] if ranked else None)


def test_names_match_regardless_of_case() -> None:
    """Vendors and gateways write the same name in different cases."""
    prices = Prices({("OpenAI", "GPT-5*"): priced(1), "Llama-[34]*": priced(2)})

    assert dollars(prices, "openai", "gpt-5-mini") == 1
    assert dollars(prices, "OPENAI", "Gpt-5") == 1
    assert dollars(prices, "meta", "LLAMA-4-scout") == 2
    assert dollars(prices, "meta", "llama-5") is None


def test_brackets_of_a_name_match_themselves_as_a_set() -> None:
    """A set of characters in brackets is a pattern, even without an asterisk."""
    assert dollars(Prices({"gpt-[45]": priced(1)}), "openai", "gpt-4") == 1


@pytest.mark.parametrize(
    "key", ["", 5, None, ("openai",), ("openai", ""), ("", "gpt-5"), ("a", "b", "c"), "x" * 201]
)
def test_key_that_is_not_a_model_is_rejected(key: Any) -> None:
    """A key is a model, or a provider and a model, each of at most 200 characters."""
    with pytest.raises(ValueError, match=r"^prices must be by model, or by \(provider, model\)"):
        Prices({key: priced(1)})


@pytest.mark.parametrize("rates", [None, 3, (1, 2), {"input": 1, "output": 2}, Rates])
def test_value_that_is_not_rates_is_rejected(rates: Any) -> None:
    """The error names the entry."""
    with pytest.raises(ValueError, match=r"^prices\['gpt-5'\] must be Rates, such as Rates\("):
        Prices({"gpt-5": rates})


@pytest.mark.parametrize("table", [[("gpt-5", priced(1))], "gpt-5", 7])
def test_table_that_is_not_a_mapping_is_rejected(table: Any) -> None:
    """The error shows a valid table."""
    with pytest.raises(ValueError, match=r'^prices must be a table such as {"gpt-5\*": Rates\('):
        Prices(table)


def test_name_that_is_too_long_has_no_price() -> None:
    """A name of more than 200 characters is not searched for, even if a pattern would match it."""
    prices = Prices({"*": priced(1)})

    assert dollars(prices, "openai", "x" * 200) == 1
    assert dollars(prices, "openai", "x" * 201) is None
    assert dollars(prices, "x" * 201, "gpt-5") is None


def test_number_of_names_that_are_kept_is_bounded() -> None:
    """Made-up names fill the memory to its bound only, and the table still prices each model."""
    prices = Prices({"gpt-*": priced(1)}, clock=lambda: 0.0)

    for number in range(MAX_PAIRS + 100):
        assert dollars(prices, "openai", f"gpt-{number}") == 1
        assert dollars(prices, "openai", f"other-{number}") is None

    assert len(prices._known) == MAX_PAIRS


def test_names_are_forgotten_after_a_quarter_of_an_hour() -> None:
    """Names of a flood do not stay, even if the clock jumps."""
    now = 0.0
    prices = Prices({"gpt-*": priced(1)}, clock=lambda: now)

    for now in (10 * REFRESH_SECONDS + 5, 11 * REFRESH_SECONDS, -50.0, 0.0, 1e12):
        assert dollars(prices, "openai", f"gpt-{now}") == 1
        assert len(prices._known) == 1


def test_model_without_a_price_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A gap in the prices shows before a bill; models of requests do not count."""
    now = [0.0]
    prices = Prices({"gpt-5": priced(1)}, clock=lambda: now[0])

    for model in ("gpt-5", "o3\n", "O3\n", None, "a" * 300):
        prices.cost("openai", model, ONE)
    now[0] += REFRESH_SECONDS
    prices.cost("azure", "o3\n", ONE)
    prices.estimate("openai", "made-up", ONE)

    text = "model without a price, its cost is unknown (logged once): model={} provider='openai'; "
    assert caplog.messages == [
        text.format(model) + "add it to `prices`" for model in (r"'o3\n'", f"'{'a' * 200}'")
    ]


def test_number_of_logged_models_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """The last line says that others are not logged."""
    prices = Prices({"gpt-5": priced(1)})

    for number in range(MAX_LOGGED + 5):
        prices.cost("openai", f"model-{number}", ONE)

    assert len(caplog.messages) == MAX_LOGGED + 1
    assert caplog.messages[-1] == "more than 100 models have no price: others are not logged"


def test_nothing_is_logged_without_prices(caplog: pytest.LogCaptureFixture) -> None:
    """Then no cost is expected."""
    Prices().cost("openai", "gpt-5", ONE)

    assert not caplog.messages


@pytest.mark.parametrize("choice", ["litellm", "", True, 5])
def test_unknown_price_list_is_rejected(choice: Any) -> None:
    """The error names the price lists that exist."""
    with pytest.raises(ValueError, match=r"^price_list must be one of genai-prices, auto or None"):
        Prices(price_list=choice)


def test_models_of_requests_do_not_displace_those_of_responses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients can make up any number of names."""
    monkeypatch.setattr("tokenpulse_mw.usage.prices.MAX_PAIRS", 2)
    prices = Prices({"table": Rates(input=1, output=1)}, price_list="genai-prices")
    usage = TokenUsage(output=1000)
    for number in range(5):
        assert prices.estimate("openai", f"made-up-{number}", usage) is None
    assert prices.estimate("openai", "table", usage) == prices.cost("openai", "table", usage)
    assert prices.estimate("openai", "gpt-4o", usage) is None  # there are too many names

    assert prices.cost("openai", "gpt-4o", usage) is not None
    assert prices.estimate("openai", "gpt-4o", usage) == prices.cost("openai", "gpt-4o", usage)

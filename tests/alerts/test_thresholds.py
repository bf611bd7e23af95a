"""Thresholds: refused where they mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import Thresholds


def test_the_defaults_are_the_seeds() -> None:
    """A tenth of at least ten requests in five minutes, or ten failures in a row."""
    thresholds = Thresholds()

    assert (thresholds.error_rate, thresholds.error_window) == (0.1, 300)
    assert (thresholds.error_min_requests, thresholds.provider_failures) == (10, 10)
    assert (thresholds.error_evidence, thresholds.count_client_errors) == (True, False)
    assert thresholds.resolve_ratio == 0.8


@pytest.mark.parametrize("name", ["error_rate", "provider_failures"])
def test_none_is_a_threshold_that_is_off(name: str) -> None:
    """A rule is switched off by giving it no threshold."""
    chosen: dict[str, Any] = {name: None}

    assert getattr(Thresholds(**chosen), name) is None


@pytest.mark.parametrize(
    "name",
    ["error_rate", "error_window", "error_min_requests", "provider_failures", "resolve_ratio"],
)
@pytest.mark.parametrize("value", [0, -1, True, "1", float("nan")])
def test_what_is_no_number_above_0_is_refused(name: str, value: object) -> None:
    """A threshold of 0 would always fire, and one that is no number never would."""
    chosen: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=f"^{name} must be a number above 0.*, got {value!r}$"):
        Thresholds(**chosen)


@pytest.mark.parametrize("name", ["error_rate", "resolve_ratio"])
def test_a_share_is_at_most_1(name: str) -> None:
    """All there is is allowed as a share, and more is refused."""
    all_of_it: dict[str, Any] = {name: 1}
    more: dict[str, Any] = {name: 1.01}

    assert getattr(Thresholds(**all_of_it), name) == 1
    with pytest.raises(
        ValueError, match=f"^{name} must be a number above 0 and at most 1, got 1.01$"
    ):
        Thresholds(**more)


@pytest.mark.parametrize("name", ["error_window", "error_min_requests", "provider_failures"])
def test_what_is_no_share_has_no_upper_limit(name: str) -> None:
    """A gateway may be as large and as patient as it likes."""
    chosen: dict[str, Any] = {name: 1_000_000}

    assert getattr(Thresholds(**chosen), name) == 1_000_000

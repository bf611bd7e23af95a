"""Settings from the environment."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from tokenpulse_mw import Settings


def test_without_variables_the_defaults_hold() -> None:
    """They are the seed's: 100 requests a minute, 5000 clients."""
    assert Settings.from_env({"PATH": "/bin"}) == Settings()
    assert (Settings().limit, Settings().max_keys) == ("100/minute", 5000)


def test_every_setting_has_a_variable() -> None:
    """With the prefix `TOKENPULSE_`."""
    assert Settings.from_env(
        {
            "TOKENPULSE_LIMIT": "5/second",
            "TOKENPULSE_MAX_KEYS": "10",
            "TOKENPULSE_LIMIT_STRATEGY": "gcra",
            "TOKENPULSE_LIMIT_STORAGE": "async+redis://127.0.0.1:6379",
            "TOKENPULSE_LIMIT_PREFIX": "oauth2api",
            "TOKENPULSE_LIMIT_ON_ERROR": "deny",
            "TOKENPULSE_LIMIT_HEADERS": "openai",
            "TOKENPULSE_LIMIT_RESPONSE": "problem",
            "TOKENPULSE_LIMIT_ENFORCE": "False",
            "TOKENPULSE_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1,",
            "TOKENPULSE_CLIENT_HEADER": "x-real-ip",
            "TOKENPULSE_METRICS_TOKEN": "s3cret",
            "TOKENPULSE_ALERT_INTERVAL": "30",
            "TOKENPULSE_ALERT_STORE": "sqlite+aiosqlite:///alerts.db",
            "TOKENPULSE_ACCESS_LOG": "1",
            "TOKENPULSE_ADMIN_TOKEN": "s3cr3t",
            "TOKENPULSE_DRAIN_DELAY": "0",
            "TOKENPULSE_LOG_LEVEL": "WARN",
            "TOKENPULSE_LOG_FORMAT": "json",
        }
    ) == Settings(
        limit="5/second",
        max_keys=10,
        limit_strategy="gcra",
        limit_storage="async+redis://127.0.0.1:6379",
        limit_prefix="oauth2api",
        limit_on_error="deny",
        limit_headers="openai",
        limit_response="problem",
        limit_enforce=False,
        trusted_proxies=("10.0.0.0/8", "192.0.2.1"),
        client_header="x-real-ip",
        metrics_token="s3cret",
        alert_interval=30,
        alert_store="sqlite+aiosqlite:///alerts.db",
        access_log=True,
        admin_token="s3cr3t",
        drain_delay=0,
        log_level="WARN",
        log_format="json",
    )


def test_an_empty_variable_is_as_good_as_none() -> None:
    """Compose files leave variables empty that nobody has set."""
    names = [each.name.upper() for each in fields(Settings) if not each.name.endswith("_token")]
    seeds = ["WINDOW_MS", "MAX_REQUESTS", "MAX_STATIONS"]

    for empty in ("", " "):
        assert (
            Settings.from_env({f"TOKENPULSE_{name}": empty for name in names + seeds}) == Settings()
        )


def test_headers_can_be_switched_off() -> None:
    """With the word `none`."""
    assert Settings.from_env({"TOKENPULSE_LIMIT_HEADERS": "none"}).limit_headers is None


@pytest.mark.parametrize(
    ("variables", "limit", "max_keys"),
    [
        ({"WINDOW_MS": "60000", "MAX_REQUESTS": "100"}, "100 per 60 seconds", 5000),
        ({"MAX_REQUESTS": "7"}, "7 per 60 seconds", 5000),
        ({"WINDOW_MS": "1000"}, "100 per 1 seconds", 5000),
        ({"MAX_STATIONS": "50"}, "100/minute", 50),
    ],
)
def test_the_seeds_names_work(variables: dict[str, str], limit: str, max_keys: int) -> None:
    """What TokenPulse's guide calls them."""
    settings = Settings.from_env({f"TOKENPULSE_{name}": v for name, v in variables.items()})

    assert (settings.limit, settings.max_keys) == (limit, max_keys)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MAX_REQUESTS": "many"}, "TOKENPULSE_MAX_REQUESTS must be a whole number .* got 'many'"),
        ({"MAX_STATIONS": "0"}, "TOKENPULSE_MAX_STATIONS must be a whole number .* got '0'"),
        ({"MAX_KEYS": "-1"}, "TOKENPULSE_MAX_KEYS must be a whole number .* got '-1'"),
        ({"WINDOW_MS": "1500"}, "TOKENPULSE_WINDOW_MS must be whole seconds, .* got '1500'"),
        ({"LIMIT": "1/day", "WINDOW_MS": "1000"}, "TOKENPULSE_LIMIT or TOKENPULSE_WINDOW_MS, not"),
        ({"LIMIT_ENFORCE": "maybe"}, "TOKENPULSE_LIMIT_ENFORCE must be 'true' or 'false', got 'ma"),
        ({"MAX_KEYS": "1", "MAX_STATIONS": "2"}, "TOKENPULSE_MAX_KEYS or TOKENPULSE_MAX_STATIONS"),
    ],
)
def test_malformed_variables_are_refused(variables: dict[str, str], said: str) -> None:
    """The error names the variable and what it holds."""
    with pytest.raises(ValueError, match=said):
        Settings.from_env({f"TOKENPULSE_{name}": v for name, v in variables.items()})


@pytest.mark.parametrize("name", ["METRICS_TOKEN", "ADMIN_TOKEN"])
def test_an_empty_token_is_refused_by_its_name(name: str) -> None:
    """It would let everyone in."""
    with pytest.raises(ValueError, match=f"^TOKENPULSE_{name} must not be empty"):
        Settings.from_env({f"TOKENPULSE_{name}": ""})


@pytest.mark.parametrize("name", ["alert_interval", "drain_delay"])
@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), "3", None, True])
def test_a_time_is_a_number_of_seconds(name: str, value: Any) -> None:
    """Anything else is refused before the server starts."""
    with pytest.raises(ValueError, match=f"^{name} must be a number of seconds.* 0.*, got "):
        Settings(**{name: value})


@pytest.mark.parametrize("name", ["limit_enforce", "access_log"])
@pytest.mark.parametrize("value", ["false", 0, None])
def test_a_switch_is_a_bool(name: str, value: Any) -> None:
    """The word "false" would be taken for True."""
    with pytest.raises(ValueError, match=f"^{name} must be True or False, got {value!r}$"):
        Settings(**{name: value})


def test_a_number_of_endless_digits_is_refused_like_others() -> None:
    """Python itself would refuse it in words that help nobody."""
    with pytest.raises(ValueError, match=r"^TOKENPULSE_ALERT_INTERVAL must be a whole number"):
        Settings.from_env({"TOKENPULSE_ALERT_INTERVAL": "9" * 5000})


def test_a_variable_that_is_no_setting_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Its value may be a secret; those of a Kubernetes service of our name are no mistake."""
    Settings.from_env(
        {
            "TOKENPULSE_LIMT": "s3cret",
            "TOKENPULSE_COLOUR": "red",
            "TOKENPULSE_PORT_3000_TCP": "tcp://10.0.0.1:3000",
            "TOKENPULSE_SERVICE_HOST": "10.0.0.1",
            "TOKENPULSE_MAX_STATIONS": "10",
        }
    )

    assert caplog.messages == [
        "unknown setting: name=TOKENPULSE_LIMT; did you mean TOKENPULSE_LIMIT?",
        "unknown setting: name=TOKENPULSE_COLOUR",
    ]

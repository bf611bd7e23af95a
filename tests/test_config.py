"""Settings from arguments, variables and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenpulse_mw import Settings
from tokenpulse_mw.logs.levels import LEVELS
from tokenpulse_mw.ratelimit.headers import _DIALECTS
from tokenpulse_mw.ratelimit.limiters.strategy import STRATEGIES
from tokenpulse_mw.ratelimit.responses import RESPONSES

SetVariables = Callable[[dict[str, str]], None]

VALUES: dict[str, tuple[str, Any]] = {
    "LIMIT": ("5/second", "5/second"),
    "MAX_KEYS": ("10", 10),
    "LIMIT_STRATEGY": ("gcra", "gcra"),
    "LIMIT_STORAGE": ("async+redis://127.0.0.1:6379", "async+redis://127.0.0.1:6379"),
    "LIMIT_PREFIX": ("oauth2api", "oauth2api"),
    "LIMIT_ON_ERROR": ("deny", "deny"),
    "LIMIT_HEADERS": ("openai", "openai"),
    "LIMIT_RESPONSE": ("problem", "problem"),
    "LIMIT_ENFORCE": ("False", False),
    "SHARED_DIR": ("/run/tokenpulse", "/run/tokenpulse"),
    "TRUSTED_PROXIES": ("10.0.0.0/8, 192.0.2.1,", ("10.0.0.0/8", "192.0.2.1")),
    "CLIENT_HEADER": ("x-real-ip", "x-real-ip"),
    "MODELS": ("gpt-5-mini,o3", ("gpt-5-mini", "o3")),
    "MODEL_ALIASES": ("prod-chat=gpt-5", ("prod-chat=gpt-5",)),
    "PRICE_LIST": ("off", "off"),
    "WEBSOCKET_USAGE": ("true", True),
    "METRICS_TOKEN": ("s3cret", "s3cret"),
    "ALERTS": ("false", False),
    "ALERT_INTERVAL": ("30", 30),
    "ALERT_COOLDOWN": ("2.5", 2.5),
    "ALERT_STORE": ("sqlite+aiosqlite:///alerts.db", "sqlite+aiosqlite:///alerts.db"),
    "ALERT_LEADS": ("false", False),
    "ALERT_ALONE_AFTER": ("Never", None),
    "ALERT_SLACK_URL": ("https://hooks.example/T0/B0", "https://hooks.example/T0/B0"),
    "ALERT_WEBHOOK_URL": ("https://hooks.example/alerts", "https://hooks.example/alerts"),
    "ALERT_WEBHOOK_SECRET": ("whsec_c2VjcmV0", "whsec_c2VjcmV0"),
    "ALERT_RUNBOOK_URL": ("https://wiki.example/page", "https://wiki.example/page"),
    "ALERT_ALERTMANAGER_URL": ("http://a:9093,http://b:9093", "http://a:9093,http://b:9093"),
    "USAGE_WEBHOOK_URL": ("https://hooks.example/usage", "https://hooks.example/usage"),
    "USAGE_WEBHOOK_SECRET": ("whsec_c2VjcmV0", "whsec_c2VjcmV0"),
    "ACCESS_LOG": ("1", True),
    "LOG_LEVEL": ("warn", "WARN"),
    "LOG_FORMAT": ("json", "json"),
    "ADMIN_TOKEN": ("s3cr3t", "s3cr3t"),
    "DRAIN_DELAY": ("0", 0),
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working directory: `.env` is read from there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def set_variables(monkeypatch: pytest.MonkeyPatch) -> SetVariables:
    """Return a function that sets `TOKENPULSE_*` variables by their names without the prefix."""

    def set_all(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"TOKENPULSE_{name}", value)

    return set_all


def revealed(settings: Settings) -> dict[str, Any]:
    """Return the settings with their secrets."""
    return {
        name: value.reveal() if hasattr(value, "reveal") else value
        for name, value in settings.model_dump().items()
    }


def test_settings_without_variables_are_the_defaults() -> None:
    """The default limit is that of TokenPulse: 100 requests a minute, 5000 clients."""
    settings = Settings()

    assert (settings.limit, settings.max_keys, settings.origins) == ("100/minute", 5000, {})


def test_every_setting_has_a_variable(set_variables: SetVariables) -> None:
    """The variable is the name of the setting in upper case, with the prefix `TOKENPULSE_`."""
    set_variables({name: text for name, (text, _) in VALUES.items()})

    expected = {name.lower(): value for name, (_, value) in VALUES.items()}
    seed_names = {"window_ms": None, "max_requests": None, "max_stations": None}
    assert revealed(Settings()) == expected | seed_names
    assert Settings().origins == {name.lower(): f"TOKENPULSE_{name}" for name in VALUES}


def test_arguments_override_variables_and_files_in_order(
    directory: Path, set_variables: SetVariables
) -> None:
    """The order is: argument, variable, `.env`, TOML file, secret file, default."""
    secrets = directory / "secrets"
    secrets.mkdir()

    class LocalSettings(Settings):
        model_config = SettingsConfigDict(secrets_dir=secrets)

    names = ["limit", "limit_prefix", "client_header", "alert_interval", "admin_token"]
    for number in range(1, 6):
        (secrets / f"tokenpulse_{names[number - 1]}").write_text("5\n")
    (directory / "gateway.toml").write_text(
        'limit = "4"\nlimit_prefix = "4"\nclient_header = "4"\nalert_interval = 4\n'
    )
    (directory / ".env").write_text(
        "TOKENPULSE_LIMIT=3\nTOKENPULSE_LIMIT_PREFIX=3\nTOKENPULSE_CLIENT_HEADER=3\nOTHER=1\n"
    )
    set_variables({"CONFIG": "gateway.toml", "LIMIT": "2", "LIMIT_PREFIX": "2"})

    settings = LocalSettings(limit="1")

    assert [revealed(settings)[name] for name in names] == ["1", "2", "3", 4, "5"]
    assert settings.origins == {
        "limit": "limit",
        "limit_prefix": "TOKENPULSE_LIMIT_PREFIX",
        "client_header": "TOKENPULSE_CLIENT_HEADER (.env)",
        "alert_interval": "alert_interval (gateway.toml)",
        "admin_token": "secret file tokenpulse_admin_token",
    }


def test_path_of_the_toml_file_may_be_in_dotenv(directory: Path) -> None:
    """`TOKENPULSE_CONFIG` in `.env` names the TOML file, if the variable is not set."""
    (directory / "gateway.toml").write_text("access_log = true\ntrusted_proxies = ['10.0.0.0/8']\n")
    (directory / ".env").write_text("TOKENPULSE_CONFIG=gateway.toml\n")

    settings = Settings()

    assert settings.access_log
    assert settings.trusted_proxies == ("10.0.0.0/8",)


def test_file_that_is_not_utf_8_is_named_without_its_content(directory: Path) -> None:
    """The error of the decoder would contain the tokens of the file."""
    (directory / ".env").write_bytes(b"TOKENPULSE_ADMIN_TOKEN=hunter2\xff\n")

    with pytest.raises(
        ValueError, match=r"^\.env and the files in /run/secrets must be text in UTF-8: .* byte 30$"
    ) as caught:
        Settings()
    assert type(caught.value) is ValueError
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("text", [None, "limit = ", b"\xff"], ids=repr)
def test_a_toml_file_that_cannot_be_read_is_refused(
    text: str | bytes | None, directory: Path, set_variables: SetVariables
) -> None:
    """The error names the variable, the path, and the reason."""
    if text is not None:
        (directory / "gateway.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    set_variables({"CONFIG": "gateway.toml"})

    with pytest.raises(
        ValueError,
        match=r"^TOKENPULSE_CONFIG must be the path of a TOML file, got 'gateway.toml'[:,] ",
    ):
        Settings()


@pytest.mark.parametrize("empty", ["", " "])
def test_empty_variables_are_ignored(empty: str, set_variables: SetVariables) -> None:
    """Compose files set variables without a value to an empty string."""
    names = [name for name in VALUES if name not in TOKENS]
    set_variables(dict.fromkeys([*names, *SEED_NAMES, "CONFIG"], empty))

    assert Settings().model_dump() == Settings().model_dump() | {"limit": "100/minute"}
    assert Settings().origins == {}


TOKENS = ["METRICS_TOKEN", "ADMIN_TOKEN", "ALERT_WEBHOOK_SECRET", "USAGE_WEBHOOK_SECRET"]
SEED_NAMES = ["WINDOW_MS", "MAX_REQUESTS", "MAX_STATIONS"]


@pytest.mark.parametrize("name", TOKENS)
def test_an_empty_token_is_refused(name: str, set_variables: SetVariables) -> None:
    """Without the token, the endpoint would be public."""
    set_variables({name: ""})

    with pytest.raises(ValueError, match=f"^TOKENPULSE_{name} must not be empty: set a token"):
        Settings()


@pytest.mark.parametrize("word", ["off", "none", "None"])
def test_limit_and_headers_can_be_switched_off(word: str, set_variables: SetVariables) -> None:
    """The words `off` and `none` stand for None."""
    set_variables({"LIMIT": word, "LIMIT_HEADERS": word})

    assert (Settings().limit, Settings().limit_headers) == (None, None)


@pytest.mark.parametrize(
    ("variables", "limit", "max_keys"),
    [
        ({"WINDOW_MS": "60000", "MAX_REQUESTS": "100"}, "100 per 60 seconds", 5000),
        ({"MAX_REQUESTS": "7"}, "7 per 60 seconds", 5000),
        ({"WINDOW_MS": "1000"}, "100 per 1 seconds", 5000),
        ({"MAX_STATIONS": "50"}, "100/minute", 50),
    ],
)
def test_names_of_the_monitoring_guide_set_the_limit(
    variables: dict[str, str], limit: str, max_keys: int, set_variables: SetVariables
) -> None:
    """`WINDOW_MS` and `MAX_REQUESTS` are the limit, `MAX_STATIONS` is `max_keys`."""
    set_variables(variables)
    settings = Settings()

    assert (settings.limit, settings.max_keys) == (limit, max_keys)
    name = "max_keys" if "MAX_STATIONS" in variables else "limit"
    assert settings.origins[name].removeprefix("TOKENPULSE_") in variables


def test_more_important_source_decides_between_both_names(
    directory: Path, set_variables: SetVariables
) -> None:
    """An argument `limit` overrides `TOKENPULSE_MAX_REQUESTS`, and a variable overrides `.env`."""
    (directory / ".env").write_text("TOKENPULSE_LIMIT=1/day\nTOKENPULSE_MAX_STATIONS=5\n")
    set_variables({"MAX_REQUESTS": "7", "MAX_KEYS": "9"})

    assert (Settings().limit, Settings().max_keys) == ("7 per 60 seconds", 9)
    assert Settings(limit="2/day").limit == "2/day"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MAX_REQUESTS": "many"}, "TOKENPULSE_MAX_REQUESTS must be an integer of at least 1, got"),
        ({"MAX_STATIONS": "0"}, "TOKENPULSE_MAX_STATIONS must be an integer of at least 1, got '0"),
        ({"MAX_KEYS": "-1"}, "TOKENPULSE_MAX_KEYS must be an integer of at least 1, got '-1'"),
        ({"MAX_KEYS": "9" * 5000}, "TOKENPULSE_MAX_KEYS must be an integer of at least 1, got '99"),
        ({"WINDOW_MS": "1500"}, "TOKENPULSE_WINDOW_MS must be whole seconds, .*, got 1500$"),
        ({"LIMIT": "1/day", "WINDOW_MS": "1000"}, "TOKENPULSE_LIMIT or TOKENPULSE_WINDOW_MS, not"),
        ({"MAX_KEYS": "1", "MAX_STATIONS": "2"}, "TOKENPULSE_MAX_KEYS or TOKENPULSE_MAX_STATIONS"),
        ({"LIMIT_ENFORCE": "maybe"}, "TOKENPULSE_LIMIT_ENFORCE must be true or false, got 'maybe'"),
        ({"LIMIT_HEADERS": "ietf"}, "must be one of draft-11, openai, legacy, none, got 'ietf'"),
        ({"LIMIT_STRATEGY": "leaky"}, "must be one of fixed-window, .*, gcra, got 'leaky'"),
        ({"ALERT_INTERVAL": "soon"}, "ALERT_INTERVAL must be a number of seconds above 0, got 'so"),
        ({"ALERT_INTERVAL": "nan"}, "ALERT_INTERVAL must be a number of seconds above 0, got 'nan"),
        (
            {"ALERT_ALONE_AFTER": "off"},
            "ALERT_ALONE_AFTER must be a number of seconds, 0 or more, or never .* got 'off'",
        ),
        ({"DRAIN_DELAY": "-1"}, "DRAIN_DELAY must be a number of seconds, 0 or more, got '-1'"),
    ],
)
def test_invalid_variables_are_refused(
    variables: dict[str, str], message: str, set_variables: SetVariables
) -> None:
    """The error names the variable, the valid values, and the value it got."""
    set_variables(variables)

    with pytest.raises(ValueError, match=message) as caught:
        Settings()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_keys": "10"}, "^max_keys must be an integer of at least 1, got '10'$"),
        ({"max_keys": True}, "^max_keys must be an integer of at least 1, got True$"),
        ({"alert_interval": 0}, "^alert_interval must be a number of seconds above 0, got 0$"),
        ({"drain_delay": float("inf")}, "^drain_delay must be a number of seconds, .* got inf$"),
        (
            {"alert_alone_after": -1},
            "^alert_alone_after must be a number of seconds, 0 or more, or",
        ),
        ({"drain_delay": None}, "^drain_delay must be a number of seconds, .* got None$"),
        ({"limit_enforce": "false"}, "^limit_enforce must be True or False, got 'false'$"),
        ({"access_log": 0}, "^access_log must be True or False, got 0$"),
        ({"limit_headers": "off"}, "^limit_headers must be one of .*, legacy, None, got 'off'$"),
        ({"alert_runbook_url": "wiki"}, "^alert_runbook_url must be a URL that begins .* 'wiki'$"),
        ({"alert_runbook_url": "https://a/#b"}, "^alert_runbook_url must be .* a fragment, got "),
        ({"alert_runbook_url": "https://u:p@a/b"}, "^alert_runbook_url must be .* a user and a f"),
        ({"limit_prefix": 3}, "^limit_prefix must be a string, got 3$"),
        ({"trusted_proxies": "10.0.0.0/8"}, "^trusted_proxies must be a list of strings, got '10"),
        ({"admin_token": b"hunter2"}, "^admin_token must be a string, got a bytes$"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    """The error names the argument; the value of a secret is not shown."""
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)


def test_an_unknown_argument_is_refused() -> None:
    """The error names the nearest setting."""
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument 'limt'; did you mean limit\?"
    ):
        Settings(limt="1/day")  # type: ignore[call-arg]


def test_an_argument_of_none_is_the_default_of_a_secret() -> None:
    """None is a valid value of each setting that is optional."""
    settings = Settings(admin_token=None, limit_storage=None, limit=None)

    assert (settings.admin_token, settings.limit_storage, settings.limit) == (None, None, None)


def test_unknown_variables_log_a_warning(
    set_variables: SetVariables, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the nearest variable; those of a Kubernetes service are not meant."""
    (directory / "gateway.toml").write_text(
        "limitt = '1/day'\nTOKENPULSE_ALERTS = false\n[tokenpulse]\nmax_keys = 7\n"
    )
    set_variables(
        {
            "LIMT": "s3cret",
            "COLOUR": "red",
            "PORT_3000_TCP": "tcp://10.0.0.1:3000",
            "SERVICE_HOST": "10.0.0.1",
            "MAX_STATIONS": "10",
            "CONFIG": "gateway.toml",
        }
    )

    Settings()

    assert sorted(caplog.messages) == [
        "unknown setting: name=TOKENPULSE_ALERTS (gateway.toml); did you mean alerts "
        "(gateway.toml)?",
        "unknown setting: name=TOKENPULSE_COLOUR",
        "unknown setting: name=TOKENPULSE_LIMT; did you mean TOKENPULSE_LIMIT?",
        "unknown setting: name=limitt (gateway.toml); did you mean limit (gateway.toml)?",
        "unknown setting: name=tokenpulse (gateway.toml); keys are at the top level of the file, "
        "without a table",
    ]


def test_settings_can_be_part_of_other_settings(set_variables: SetVariables) -> None:
    """An application with settings of its own can nest these in them."""

    class Application(BaseSettings):
        name: str = "gateway"
        tokenpulse: Settings

    set_variables({"LIMIT": "3/day"})

    assert Application(tokenpulse=Settings()).tokenpulse.limit == "3/day"


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("limit_strategy", STRATEGIES),
        ("limit_headers", _DIALECTS),
        ("limit_response", RESPONSES),
        ("log_level", [*LEVELS, "WARNING"]),
    ],
)
def test_choices_are_those_of_the_part_that_uses_them(name: str, choices: Iterable[str]) -> None:
    """A strategy, a dialect, a response or a level that exists can be set."""
    annotation = Settings.model_fields[name].annotation
    members = {member for kind in (annotation, *get_args(annotation)) for member in get_args(kind)}

    assert {member for member in members if isinstance(member, str)} == set(choices)

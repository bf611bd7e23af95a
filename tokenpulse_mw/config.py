"""Settings from arguments, environment variables, `.env`, a TOML file and secret files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, wraps
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .secret import Secret, hide, hide_arguments, hide_url
from .validation import LINK, describe

logger = logging.getLogger("tokenpulse_mw")

PREFIX = "TOKENPULSE_"
_MAX_DIGITS = 15
_MAX_SHOWN_CHARS = 50
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_OFF = ("off", "none")
# Each setting with its equivalent of the monitoring guide.
_EXCLUSIVE = (("limit", "window_ms"), ("limit", "max_requests"), ("max_keys", "max_stations"))
_TOKENS = ("metrics_token", "admin_token", "alert_webhook_secret", "usage_webhook_secret")


@dataclass(frozen=True, slots=True)
class _Expected:
    """Description of the valid values of a setting, for its error."""

    text: str


def _hidden(hider: Callable[[str | Secret[str]], Secret[str]]) -> PlainValidator:
    """Return a validator that accepts a string or a secret, and returns a secret."""

    def validate(value: Any) -> Secret[str] | None:
        if not isinstance(value, str | Secret | None):
            raise ValueError
        return None if value is None else hider(value)

    return PlainValidator(validate)


def _strings(value: Any) -> Any:
    """Return an iterable of strings as a tuple; the type rejects a single string."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


_Count = Annotated[int, Field(ge=1), _Expected("an integer of at least 1")]
_OptionalCount = Annotated[int | None, Field(ge=1), _Expected("an integer of at least 1")]
_Positive = Annotated[
    float, Field(gt=0, allow_inf_nan=False), _Expected("a number of seconds above 0")
]
_Seconds = Annotated[
    float, Field(ge=0, allow_inf_nan=False), _Expected("a number of seconds, 0 or more")
]
_OptionalSeconds = Annotated[
    float | None,
    Field(ge=0, allow_inf_nan=False),
    _Expected("a number of seconds, 0 or more, or never (None in Python)"),
]
_Strings = Annotated[tuple[str, ...], BeforeValidator(_strings), _Expected("a list of strings")]
_Token = Annotated[str | Secret[str] | None, _hidden(hide)]
_Url = Annotated[str | Secret[str] | None, _hidden(hide_url)]
_Link = Annotated[
    str | None,
    Field(pattern=LINK),
    _Expected("a URL that begins with https:// or http://, without a user and a fragment"),
]


class Settings(BaseSettings):
    """Settings of `TokenPulse`.

    A value is taken from the first of these that has it: the argument, the environment variable
    `TOKENPULSE_<NAME>`, the same variable in `.env`, the key `<name>` of the TOML file that
    `TOKENPULSE_CONFIG` names, the file `tokenpulse_<name>` in `/run/secrets`, the default.

    Variables separate the items of a list by commas, and use `off` or `none` for None. Empty
    variables are ignored, except tokens, which are rejected. Unknown variables log a warning.

    Tokens and URLs are given as strings and stored as `Secret`: neither `repr`, `str` nor
    `model_dump` shows them, and settings that have one cannot be pickled. Call `reveal()` to read
    the string.

    Attributes:
        shared_dir: Folder in which the workers of one machine share limits, metrics, alerts and the
            settings of operators, such as "/run/tokenpulse"; each gateway needs its own.
            `limit_storage`, `alert_store` and PROMETHEUS_MULTIPROC_DIR override it for their part.
            None shares nothing.
        limit: Limit of each client, such as "100/minute"; None sets no limit.
        window_ms: Window of the limit in milliseconds, with `max_requests` instead of `limit`.
        max_requests: Requests in this window.
        max_keys: Number of clients that the limiter tracks individually.
        max_stations: The same, in the words of TokenPulse's monitoring guide.
        limit_strategy: "fixed-window", "sliding-window-counter" or "gcra".
        limit_storage: Storage in which several processes count together, such as
            "redis://localhost:6379"; None counts in each process alone.
        limit_prefix: Prefix of the counters there; applications that share a storage and do not
            share limits need different ones.
        limit_on_error: Decision while the storage is unavailable: "local", "allow" or "deny".
        limit_headers: Dialect of the headers: "draft-11", "openai", "legacy" or None.
        limit_response: Format of 429 responses: "text", "problem", "openai" or "anthropic".
        limit_enforce: False counts and reports without rejecting (shadow mode).
        trusted_proxies: Networks of proxies whose `client_header` is trusted.
        client_header: Header in which the proxies name the client.
        models: Models that metrics always count by name, such as "gpt-5-mini".
        model_aliases: Labels of models with other names, such as those of a deployment:
            "prod-chat=gpt-5-mini", "acme-*=llama-3.3".
        price_list: Prices of models that the application does not price: "genai-prices", "auto" for
            these if the package is installed, or "off".
        websocket_usage: Meter the tokens of models over WebSockets: OpenAI Realtime and Responses,
            and Gemini Live.
        metrics_token: Bearer token of `/metrics`; None makes it public.
        alerts: False evaluates no alerts; `/admin/alerts` is not served then.
        alert_interval: Seconds between two evaluations of the alert engine.
        alert_cooldown: Seconds between two reminders of a firing alert.
        alert_store: Database of the alerts, such as "sqlite+aiosqlite:///alerts.db"; all processes
            with the same one are one gateway. None keeps them in memory.
        alert_leads: False if this process must never evaluate alerts for the others, such as one
            that cannot reach the sinks.
        alert_alone_after: Seconds without the database after which the process that led last
            evaluates without it; None, in a text `never`: never.
        alert_slack_url: Incoming webhook of Slack that is notified.
        alert_webhook_url: URL that is notified in the format of Standard Webhooks.
        alert_webhook_secret: Secret that signs these notifications, such as "whsec_...".
        alert_alertmanager_url: Base URL of the Alertmanager that is notified; those of a cluster
            are separated by commas.
        alert_runbook_url: URL of your runbook; each alert links to its section, whose anchor is
            the type of the alert, such as `#provider_down`.
        usage_webhook_url: URL that receives the usage of each hour by tenant and model, in the
            format of Standard Webhooks.
        usage_webhook_secret: Secret that signs it, such as "whsec_...".
        access_log: Log a line with an id for each request.
        log_level: "DEBUG", "INFO", "WARN" or "ERROR". If this or `log_format` is set, logging is
            configured for the whole process when the application starts, including the server's
            lines. If both are None, the application configures logging; without it, the lines of
            this library are written to standard error.
        log_format: "text" or "json".
        admin_token: Bearer token of `/admin` and of the health details; None serves nothing
            there. Requests with it are not limited; requests with a wrong token are.
        drain_delay: Seconds between SIGTERM and the server's shutdown, in which the service is not
            ready and still serves; 0 leaves SIGTERM to the server.
        origins: Source of each value that is not a default, such as `TOKENPULSE_LIMIT`.

    Raises:
        ValueError: A value has the wrong type or is out of range, or two values exclude each
            other. Rates, URLs and networks are checked when `TokenPulse` is constructed.
        TypeError: An argument is unknown.
    """

    shared_dir: str | None = None
    limit: str | None = "100/minute"
    window_ms: _OptionalCount = None
    max_requests: _OptionalCount = None
    max_keys: _Count = 5000
    max_stations: _OptionalCount = None
    limit_strategy: Literal["fixed-window", "sliding-window-counter", "gcra"] = "fixed-window"
    limit_storage: _Url = None
    limit_prefix: str = "tokenpulse"
    limit_on_error: Literal["local", "allow", "deny"] = "local"
    limit_headers: Literal["draft-11", "openai", "legacy"] | None = "draft-11"
    limit_response: Literal["text", "problem", "openai", "anthropic"] = "text"
    limit_enforce: bool = True
    trusted_proxies: _Strings = ()
    client_header: str = "x-forwarded-for"
    models: _Strings = ()
    model_aliases: _Strings = ()
    price_list: Literal["auto", "genai-prices", "off"] = "auto"
    websocket_usage: bool = False
    metrics_token: _Token = None
    alerts: bool = True
    alert_interval: _Positive = 60
    alert_cooldown: _Positive = 300
    alert_store: _Url = None
    alert_leads: bool = True
    alert_alone_after: _OptionalSeconds = 120
    alert_slack_url: _Token = None  # the path of these URLs is a secret
    alert_webhook_url: _Token = None
    alert_webhook_secret: _Token = None
    alert_alertmanager_url: _Url = None
    alert_runbook_url: _Link = None
    usage_webhook_url: _Token = None
    usage_webhook_secret: _Token = None
    access_log: bool = False
    log_level: Literal["DEBUG", "INFO", "WARN", "WARNING", "ERROR"] | None = None
    log_format: Literal["text", "json"] | None = None
    admin_token: _Token = None
    drain_delay: _Seconds = 3
    origins: Mapping[str, str] = Field(default={}, init=False, repr=False, exclude=True)

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        secrets_dir="/run/secrets",
        enable_decoding=False,
        frozen=True,
        strict=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the first of which wins."""
        environ, dotenv = _variables(env_settings), _variables(dotenv_settings)
        path = environ.pop("config", "") or dotenv.pop("config", "")
        origins: dict[str, str] = {}
        sources = (
            (environ, PREFIX + "{NAME}"),
            (dotenv, PREFIX + "{NAME} (.env)"),
            (_toml(settings_cls, path), f"{{name}} ({path})"),
            (_secrets(file_secret_settings), "secret file tokenpulse_{name}"),
        )
        return (
            _Arguments(settings_cls, init_settings(), "{name}", origins),
            *(_Texts(settings_cls, values, label, origins) for values, label in sources),
            _Derived(settings_cls, {}, "{name}", origins),
        )


def _check_encoding(init: Callable[..., None]) -> Callable[..., None]:
    """Return `init` with an error that names the files with variables if one is not UTF-8.

    The error of the decoder contains the file, which may have secrets.
    """

    @wraps(init)
    def checked(*args: Any, **kwargs: Any) -> None:
        try:
            init(*args, **kwargs)
        except UnicodeDecodeError as error:
            raise ValueError(
                f".env and the files in /run/secrets must be text in UTF-8: {error.reason} "
                f"at byte {error.start}"
            ) from None

    return checked


Settings.__init__ = hide_arguments(_check_encoding(Settings.__init__))  # type: ignore[method-assign]


class _Arguments(PydanticBaseSettingsSource):
    """Settings of one source, each checked here so that an error names it as it was written.

    Args:
        settings_cls: Class of the settings.
        values: Values by the name of the setting.
        label: Format of the name that the operator wrote, with `name` or `NAME`.
        origins: Receives the label of each setting that is used.
    """

    words: ClassVar = {True: "True", False: "False", None: "None"}

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        values: Mapping[str, Any],
        label: str,
        origins: dict[str, str],
    ) -> None:
        super().__init__(settings_cls)
        self.fields = {k: v for k, v in settings_cls.model_fields.items() if k != "origins"}
        self.values = values
        self.origins = origins
        self._label = label

    def __call__(self) -> dict[str, Any]:
        """Return the values of the settings that no source before this one has.

        Raises:
            ValueError: A value is invalid, or two settings exclude each other.
            TypeError: An argument is unknown.
        """
        for name in self.values.keys() - self.fields.keys():
            self.report_unknown(name, self._nearest(name))
        for name, other in _EXCLUSIVE:
            if name in self.values and other in self.values:
                raise ValueError(f"give {self.label(name)} or {self.label(other)}, not both")
        taken = self.current_state.keys() | {
            other
            for names in _EXCLUSIVE
            for name, other in (names, names[::-1])
            if name in self.current_state
        }
        valid = {}
        for name in self.fields:
            if name in self.values and name not in taken:
                valid[name] = self._validated(name)
                self.origins[name] = self.label(name)
        return valid

    def label(self, name: str) -> str:
        """Return the name of a setting as the operator wrote it."""
        return self._label.format(name=name, NAME=name.upper())

    def report_unknown(self, name: str, hint: str) -> None:
        """Raise TypeError: the argument `name` is unknown."""
        raise TypeError(f"Settings() got an unexpected keyword argument {name!r}{hint}")

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002
        field_name: str,
    ) -> tuple[Any, str, bool]:
        """Return the value of a setting in the type of its field."""
        return self.values[field_name], field_name, False

    def _nearest(self, name: str) -> str:
        name = name.lower().removeprefix(PREFIX.lower())  # also in the TOML file
        near = get_close_matches(name, self.fields, n=1)
        return f"; did you mean {self.label(near[0])}?" if near else ""

    def _validated(self, name: str) -> Any:
        field = self.fields[name]
        value = self.get_field_value(field, name)[0]
        try:
            return _adapter(self.settings_cls, name).validate_python(value)
        except ValidationError:
            value = self.values[name]
        shown = describe(value) if _is_secret(field) else repr(value)[:_MAX_SHOWN_CHARS]
        raise ValueError(f"{self.label(name)} must be {self._expected(field)}, got {shown}")

    def _expected(self, field: FieldInfo) -> str:
        """Return a description of the valid values of a setting, in the words of this source."""
        for entry in field.metadata:
            if isinstance(entry, _Expected):
                return entry.text
        if field.annotation is bool:
            return f"{self.words[True]} or {self.words[False]}"
        if choices := _choices(field):
            last = [self.words[None]] if type(None) in get_args(field.annotation) else []
            return f"one of {', '.join([*choices, *last])}"
        return "a string"


class _Texts(_Arguments):
    """Settings in texts, as variables and files have them; TOML may also have other types."""

    words: ClassVar = {True: "true", False: "false", None: "none"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for name in _TOKENS:
            if _is_blank(self.values.get(name)):  # the operator expects that a token is required
                raise ValueError(
                    f"{self.label(name)} must not be empty: set a token, or remove the setting"
                )
        self.values = {k: v for k, v in self.values.items() if not _is_blank(v)}

    def report_unknown(self, name: str, hint: str) -> None:
        """Log a warning: the setting is unknown."""
        # Kubernetes sets such variables for a service named tokenpulse.
        if not name.startswith(("service_", "port")):
            if isinstance(self.values[name], dict):
                hint = "; keys are at the top level of the file, without a table"
            logger.warning("unknown setting: name=%s%s", self.label(name), hint)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of a setting, converted from text if it is one."""
        value = self.values[field_name]
        if isinstance(value, str) and not _is_secret(field):
            value = _from_text(value.strip(), field)
        return value, field_name, False


class _Derived(_Arguments):
    """Last source: the settings that follow from others, and the origin of each."""

    def __call__(self) -> dict[str, Any]:
        """Return the monitoring guide's limits under the names of `Settings`, and the origins.

        Raises:
            ValueError: The window is not in whole seconds.
        """
        state, origins = self.current_state, self.origins
        values: dict[str, Any] = {"origins": origins}
        for name, seed in _EXCLUSIVE:
            if seed in state:
                origins[name] = origins[seed]
        if "window_ms" in state or "max_requests" in state:
            seconds, rest = divmod(state.get("window_ms", 60_000), 1000)
            if rest:
                raise ValueError(
                    f"{origins['window_ms']} must be whole seconds, such as 60000, "
                    f"got {state['window_ms']}"
                )
            values["limit"] = f"{state.get('max_requests', 100)} per {seconds} seconds"
        if "max_stations" in state:
            values["max_keys"] = state["max_stations"]
        return values


@cache
def _adapter(settings_cls: type[BaseSettings], name: str) -> TypeAdapter[Any]:
    """Return the validator of one setting."""
    field = settings_cls.model_fields[name]
    kind: Any = Annotated[(field.annotation, *field.metadata, name)]
    return TypeAdapter(kind, config=ConfigDict(strict=True))


def _choices(field: FieldInfo) -> list[str]:
    """Return the strings that a setting may have; none if it is free."""
    kinds = (field.annotation, *get_args(field.annotation))
    return [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]


def _is_secret(field: FieldInfo) -> bool:
    return any(isinstance(entry, PlainValidator) for entry in field.metadata)


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _from_text(text: str, field: FieldInfo) -> Any:
    """Return `text` in the type of a setting, or unchanged if it cannot be converted."""
    kinds = get_args(field.annotation) or (field.annotation,)
    if isinstance(field.default, tuple):
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if bool in kinds:
        return _BOOLS.get(text.lower(), text)
    if int in kinds:
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else text
    if float in kinds:
        if type(None) in kinds and text.lower() == "never":
            return None
        try:
            return float(text)
        except ValueError:
            return text
    if type(None) in kinds and field.default is not None and text.lower() in _OFF:
        return None
    return next((choice for choice in _choices(field) if choice.lower() == text.lower()), text)


def _variables(source: PydanticBaseSettingsSource) -> dict[str, Any]:
    """Return the variables with the prefix `TOKENPULSE_`, by the name of the setting."""
    variables: Mapping[str, Any] = getattr(source, "env_vars", {})
    prefix = PREFIX.lower()
    return {
        name.removeprefix(prefix): value
        for name, value in variables.items()
        if name.startswith(prefix)
    }


def _secrets(source: PydanticBaseSettingsSource) -> dict[str, Any]:
    """Return the texts of the secret files, by the name of the setting."""
    folder = getattr(source, "secrets_dir", None)
    return source() if folder is not None and Path(folder).is_dir() else {}


def _toml(settings_cls: type[BaseSettings], path: str) -> dict[str, Any]:
    """Return the keys of the TOML file at `path`; none without a path.

    Raises:
        ValueError: The file cannot be read, or is not TOML.
    """
    if not path.strip():
        return {}
    label = f"{PREFIX}CONFIG must be the path of a TOML file, got {path!r}"
    if not Path(path).is_file():
        raise ValueError(f"{label}, which is not a file")
    try:
        return TomlConfigSettingsSource(settings_cls, toml_file=path).toml_data
    except (OSError, UnicodeDecodeError, TOMLDecodeError) as error:
        raise ValueError(f"{label}: {error}") from None

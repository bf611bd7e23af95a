"""Secrets, which no object of this library shows."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import tokenpulse_mw
from tokenpulse_mw import HttpMetrics, Settings, SharedLimiter, TokenPulse, bearer
from tokenpulse_mw.alerts.sinks import AlertmanagerSink, RetryLater, SlackSink, WebhookSink
from tokenpulse_mw.alerts.sinks.http_client import parse
from tokenpulse_mw.alerts.store import SQLAlertStore, StoreError
from tokenpulse_mw.secret import MASK, Secret, hide, hide_url, masked_url, redact
from tokenpulse_mw.web.auth import Guard

from .alerts.sinks.events import event
from .support.servers import free_port

PACKAGE = str(Path(tokenpulse_mw.__file__).parent)
SECRET = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg"  # valid as a token, a password and a key
STORAGE = f"async+redis://user:{SECRET}@127.0.0.1:1/2?password={SECRET}"
DATABASE = f"postgresql+asyncpg://user:{SECRET}@127.0.0.1:1/name?password={SECRET}"
WEBHOOK = f"http://user:{SECRET}@127.0.0.1:1/services/{SECRET}?key={SECRET}"
HEADERS = {"Authorization": f"Bearer {SECRET}"}
VARIABLES = {
    "TOKENPULSE_LIMIT_STORAGE": STORAGE,
    "TOKENPULSE_ALERT_STORE": DATABASE,
    "TOKENPULSE_ADMIN_TOKEN": SECRET,
    "TOKENPULSE_METRICS_TOKEN": SECRET,
}


def _settings(**options: Any) -> Settings:
    return Settings(
        limit_storage=STORAGE,
        alert_store=DATABASE,
        admin_token=SECRET,
        metrics_token=SECRET,
        **options,
    )


def _settings_of(variables: dict[str, str]) -> Settings:
    """Return the settings of these environment variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return Settings()


OBJECTS: dict[str, Callable[[HttpMetrics], object]] = {
    "secret": lambda metrics: Secret(SECRET),
    "settings": lambda metrics: _settings(),
    "settings from variables": lambda metrics: _settings_of(VARIABLES),
    "TokenPulse": lambda metrics: TokenPulse(settings=_settings(), metrics=metrics),
    "bearer": lambda metrics: bearer(SECRET),
    "guard": lambda metrics: Guard(bearer(SECRET), of="Endpoint"),
    "webhook": lambda metrics: WebhookSink(WEBHOOK, secret=f"whsec_{SECRET}", headers=HEADERS),
    "slack": lambda metrics: SlackSink(WEBHOOK, headers=HEADERS),
    "alertmanager": lambda metrics: AlertmanagerSink([WEBHOOK], headers=HEADERS),
    "destination": lambda metrics: parse(WEBHOOK),
    "store": lambda metrics: SQLAlertStore(DATABASE),
    "shared limiter": lambda metrics: SharedLimiter("1/minute", storage=STORAGE),
}

# Calls with one invalid argument, and a secret in another one.
INVALID: dict[str, Callable[[HttpMetrics], object]] = {
    "settings": lambda metrics: _settings(alert_interval=-1),
    "unknown setting": lambda metrics: _settings(limt="1/minute"),
    "variables": lambda metrics: _settings_of(
        {**VARIABLES, "TOKENPULSE_TOKEN": SECRET, "TOKENPULSE_MAX_KEYS": "many"}
    ),
    "limit of TokenPulse": lambda metrics: TokenPulse(
        settings=_settings(limit="many"), metrics=metrics
    ),
    "bearer": lambda metrics: bearer(f"{SECRET} "),
    "signing key": lambda metrics: WebhookSink(WEBHOOK, secret=SECRET, headers=HEADERS),
    "timeout": lambda metrics: WebhookSink(WEBHOOK, secret=f"whsec_{SECRET}", timeout=-1),
    "header name": lambda metrics: SlackSink(
        WEBHOOK, headers={f"Authorization: Bearer {SECRET}": ""}
    ),
    "header value": lambda metrics: SlackSink(WEBHOOK, headers={"X-Team": f"{SECRET}\n"}),
    "HTTP URL": lambda metrics: SlackSink(WEBHOOK.replace("http:", "ftp:")),
    "HTTP port": lambda metrics: AlertmanagerSink(WEBHOOK.replace(":1/", ":port/")),
    "labels": lambda metrics: AlertmanagerSink(WEBHOOK, headers=HEADERS, labels={"": ""}),
    "database": lambda metrics: SQLAlertStore(DATABASE.replace("postgresql", "nonsense")),
    "driver": lambda metrics: SQLAlertStore(DATABASE.replace("asyncpg", "psycopg9")),
    "database port": lambda metrics: SQLAlertStore(DATABASE.replace(":1/", ":port/")),
    "history": lambda metrics: SQLAlertStore(DATABASE, max_history=0),
    "storage": lambda metrics: SharedLimiter("1/minute", storage=STORAGE.replace("redis", "x")),
    "storage without a URL": lambda metrics: SharedLimiter("1/minute", storage=SECRET),
    "storage port": lambda metrics: SharedLimiter(
        "1/minute", storage=STORAGE.replace(":1/", ":port/")
    ),
    "rate": lambda metrics: SharedLimiter("many", storage=STORAGE),
}


def _reachable(start: object) -> Iterator[object]:
    """Yield `start`, and all values in its attributes and containers."""
    pending, seen = [start], set[int]()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            pending += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            pending += value
        elif type(value).__module__.startswith("tokenpulse_mw") and not isinstance(value, Secret):
            names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
            pending += [getattr(value, name) for name in names if hasattr(value, name)]
        yield value


def _traceback_with_locals(error: BaseException) -> str:
    """Return the text of a traceback with the locals of each frame of this library."""
    texts = [str(error), repr(error)]
    while True:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_filename[0] == "<":
                texts += [repr(value) for value in frame.f_locals.values()]
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            return "\n".join(texts)
        error = cause
        texts += [str(error), repr(error)]


@pytest.mark.parametrize("name", OBJECTS)
def test_object_with_secret_does_not_show_it(name: str, metrics: HttpMetrics) -> None:
    """The `repr` and `str` of an object, and of all values in it, do not contain the secret."""
    for value in _reachable(OBJECTS[name](metrics)):
        assert SECRET not in repr(value)
        assert SECRET not in str(value)
        if isinstance(value, Settings):
            assert SECRET not in repr(value.model_dump())


@pytest.mark.parametrize("name", OBJECTS)
def test_object_with_secret_is_not_pickled(name: str, metrics: HttpMetrics) -> None:
    """Pickling raises, because a pickle is a file or message that others read."""
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(OBJECTS[name](metrics))


@pytest.mark.parametrize("copy_function", [copy.copy, copy.deepcopy])
def test_copied_settings_are_equal_and_hide_the_secrets(
    copy_function: Callable[[Settings], Settings],
) -> None:
    """A copy has the same secrets, and does not show them."""
    settings = _settings()
    replaced = copy_function(settings).model_copy(update={"limit": "1/minute"})

    assert copy_function(settings) == settings
    assert copy.copy(hide(SECRET)) == hide(SECRET)
    assert SECRET not in repr(replaced)
    assert (replaced.admin_token, replaced.limit_storage) == (hide(SECRET), hide_url(STORAGE))


def test_secret_of_other_value_is_not_equal() -> None:
    """Secrets are compared by their values, not by the text that they show."""
    assert Secret("a") != Secret("b")
    assert Secret("a") == Secret("a", shown="b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_settings_show_urls_without_passwords() -> None:
    """Only the secret parts of a URL are hidden."""
    shown = repr(_settings())

    assert f"admin_token={MASK!r}, " in shown
    assert "limit_storage='async+redis://user:***@127.0.0.1:1/2', " in shown
    assert "alert_store='postgresql+asyncpg://user:***@127.0.0.1:1/name', " in shown


@pytest.mark.parametrize("name", INVALID)
def test_error_of_an_invalid_argument_hides_the_other_arguments(
    name: str, metrics: HttpMetrics
) -> None:
    """The text of the error and the locals of frames of this library do not contain the secret."""
    with pytest.raises((ValueError, TypeError)) as caught:
        INVALID[name](metrics)

    assert SECRET not in _traceback_with_locals(caught.value)


def test_error_of_an_invalid_argument_keeps_the_traceback_of_a_handled_error() -> None:
    """Only tracebacks of frames inside the constructor are removed."""
    handled = KeyError("name")

    def construct() -> None:
        try:
            raise handled
        except KeyError:
            Settings(alert_interval=-1)

    with pytest.raises(ValueError, match="alert_interval must be") as caught:
        construct()

    assert caught.value.__context__ is handled
    assert handled.__traceback__ is not None


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["webhook", "slack", "alertmanager"])
async def test_sink_that_fails_hides_the_secret(
    name: str, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The error and the log do not contain the secret."""
    caplog.set_level(logging.DEBUG)
    sink: Any = OBJECTS[name](metrics)

    with pytest.raises(RetryLater) as caught:
        await sink(event())
    await sink.aclose()

    assert SECRET not in _traceback_with_locals(caught.value)
    assert SECRET not in caplog.text


class _QuotingTransport:
    """A transport whose error quotes the whole request."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise RuntimeError(f"{request.url} {request.headers}")

    async def aclose(self) -> None:
        """Do nothing."""


@pytest.mark.anyio
async def test_error_of_a_transport_is_reported_by_its_class_only() -> None:
    """The error of the sink does not contain the text of the transport's error."""
    sink = WebhookSink(WEBHOOK, headers=HEADERS, transport=_QuotingTransport())

    with pytest.raises(
        RetryLater, match=r"^http://127.0.0.1:1 request failed \(RuntimeError\)$"
    ) as caught:
        await sink(event())

    assert SECRET not in _traceback_with_locals(caught.value)


def test_store_that_fails_hides_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """The error and the log do not contain the password."""
    caplog.set_level(logging.DEBUG)
    store = SQLAlertStore(DATABASE.replace(":1/", f":{free_port()}/"))

    async def load() -> None:
        try:
            await store.load()
        finally:
            await store.aclose()

    with pytest.raises(StoreError) as caught:
        anyio.run(load)

    assert SECRET not in _traceback_with_locals(caught.value)
    assert SECRET not in caplog.text


def test_storage_that_fails_hides_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """The log line of the outage names the storage without its password."""
    caplog.set_level(logging.DEBUG)
    storage = STORAGE.replace(":1/", f":{free_port()}/").replace("?password", "?username")
    limiter = SharedLimiter("1/minute", storage=storage.partition("?")[0])

    async def hit() -> None:
        with suppress(ValueError):
            await limiter.hit("key")
        await limiter.aclose()

    anyio.run(hit)

    assert "rate limit storage async+redis://user:***@127.0.0.1" in caplog.text
    assert SECRET not in caplog.text


def test_endpoints_do_not_show_the_secrets_of_the_settings(metrics: HttpMetrics) -> None:
    """No response of an endpoint contains a secret, not even for an authorized client."""
    app = Starlette()
    TokenPulse(settings=Settings(admin_token=SECRET), metrics=metrics).install(app)

    with TestClient(app, headers=HEADERS) as client:
        for path in (
            "/admin/settings",
            "/admin/alerts",
            "/admin/alerts/openapi.json",
            "/health",
            "/metrics",
        ):
            response = client.get(path)
            assert response.status_code == 200, path
            assert SECRET not in f"{response.text} {response.headers}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("async+redis://127.0.0.1:6379/2", "async+redis://127.0.0.1:6379/2"),
        ("async+redis://me:pw@10.0.0.1:6379", "async+redis://me:***@10.0.0.1:6379"),
        ("async+redis://:p@w@10.0.0.1:6379", "async+redis://:***@10.0.0.1:6379"),
        ("async+redis://token@10.0.0.1:6379", "async+redis://***@10.0.0.1:6379"),
        ("async+redis://10.0.0.1?password=pw", "async+redis://10.0.0.1"),
        ("async+redis://10.0.0.1?password=p@w", "async+redis://***"),
        ("sqlite+aiosqlite:////data/a@b.db", "sqlite+aiosqlite:////data/a@b.db"),
        ("pw", "***"),
    ],
)
def test_masked_url_hides_password_and_options(url: str, shown: str) -> None:
    """The scheme, the user of a password, the host, the port and the path are shown."""
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    ("url", "text", "redacted"),
    [
        ("redis://me:p%40ss@h", "me: p%40ss p@ss", "me: *** ***"),
        ("redis://h?db=1&password=p%40ss+1", "1 p%40ss+1 p@ss 1", "1 *** ***"),
        ("redis://h?ssl_token=p@ss", "h p@ss", "h ***"),
        ("redis://token@h", "token h", "*** h"),
        ("sqlite:////data/a@b.db", "/data/a@b.db", "/data/a@b.db"),
        ("redis://h", "redis://h", "redis://h"),
    ],
)
def test_redacted_text_has_no_password(url: str, text: str, redacted: str) -> None:
    """A password is replaced both as written in the URL and decoded."""
    assert redact(text, hide_url(url)) == redacted

"""Secrets: no object of ours shows one, in whichever way it is looked at."""

from __future__ import annotations

import copy
import dataclasses
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
SECRET = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg"  # it can be a token, a password and a key
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


def _settings(**others: Any) -> Settings:
    return Settings(
        limit_storage=STORAGE,
        alert_store=DATABASE,
        admin_token=SECRET,
        metrics_token=SECRET,
        **others,
    )


OBJECTS: dict[str, Callable[[HttpMetrics], object]] = {
    "secret": lambda metrics: Secret(SECRET),
    "settings": lambda metrics: _settings(),
    "settings of variables": lambda metrics: Settings.from_env(VARIABLES),
    "TokenPulse": lambda metrics: TokenPulse(settings=_settings(), metrics=metrics),
    "bearer": lambda metrics: bearer(SECRET),
    "guard": lambda metrics: Guard(bearer(SECRET), of="it"),
    "webhook": lambda metrics: WebhookSink(WEBHOOK, secret=f"whsec_{SECRET}", headers=HEADERS),
    "slack": lambda metrics: SlackSink(WEBHOOK, headers=HEADERS),
    "alertmanager": lambda metrics: AlertmanagerSink([WEBHOOK], headers=HEADERS),
    "destination": lambda metrics: parse(WEBHOOK),
    "store": lambda metrics: SQLAlertStore(DATABASE),
    "shared limiter": lambda metrics: SharedLimiter("1/minute", storage=STORAGE),
}

# Each is wrong in one argument, and has a secret in another one.
WRONG: dict[str, Callable[[HttpMetrics], object]] = {
    "settings": lambda metrics: _settings(alert_interval=-1),
    "an unknown setting": lambda metrics: _settings(limt="1/minute"),
    "variables": lambda metrics: Settings.from_env(
        {**VARIABLES, "TOKENPULSE_TOKEN": SECRET, "TOKENPULSE_MAX_KEYS": "many"}
    ),
    "a limit of TokenPulse": lambda metrics: TokenPulse(
        settings=_settings(limit="many"), metrics=metrics
    ),
    "a bearer": lambda metrics: bearer(f"{SECRET} "),
    "a signing key": lambda metrics: WebhookSink(WEBHOOK, secret=SECRET, headers=HEADERS),
    "a timeout": lambda metrics: WebhookSink(WEBHOOK, secret=f"whsec_{SECRET}", timeout=-1),
    "a header's name": lambda metrics: SlackSink(
        WEBHOOK, headers={f"Authorization: Bearer {SECRET}": ""}
    ),
    "a header's value": lambda metrics: SlackSink(WEBHOOK, headers={"X-Team": f"{SECRET}\n"}),
    "a URL of HTTP": lambda metrics: SlackSink(WEBHOOK.replace("http:", "ftp:")),
    "a port of HTTP": lambda metrics: AlertmanagerSink(WEBHOOK.replace(":1/", ":port/")),
    "labels": lambda metrics: AlertmanagerSink(WEBHOOK, headers=HEADERS, labels={"": ""}),
    "a database": lambda metrics: SQLAlertStore(DATABASE.replace("postgresql", "nonsense")),
    "a driver": lambda metrics: SQLAlertStore(DATABASE.replace("asyncpg", "psycopg9")),
    "a port of a database": lambda metrics: SQLAlertStore(DATABASE.replace(":1/", ":port/")),
    "a history": lambda metrics: SQLAlertStore(DATABASE, max_history=0),
    "a storage": lambda metrics: SharedLimiter("1/minute", storage=STORAGE.replace("redis", "x")),
    "no URL of a storage": lambda metrics: SharedLimiter("1/minute", storage=SECRET),
    "a port of a storage": lambda metrics: SharedLimiter(
        "1/minute", storage=STORAGE.replace(":1/", ":port/")
    ),
    "a rate": lambda metrics: SharedLimiter("many", storage=STORAGE),
}


def _reached(start: object) -> Iterator[object]:
    """Yield `start`, and every object of ours or container that its attributes lead to."""
    waiting, seen = [start], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif type(value).__module__.startswith("tokenpulse_mw") and not isinstance(value, Secret):
            names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
            waiting += [getattr(value, name) for name in names if hasattr(value, name)]
        yield value


def _with_locals(error: BaseException) -> str:
    """Return what a tool shows that prints tracebacks with the locals of each frame of ours."""
    shown = [str(error), repr(error)]
    while True:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_filename[0] == "<":
                shown += [repr(value) for value in frame.f_locals.values()]
        following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if following is None:
            return "\n".join(shown)
        error = following
        shown += [str(error), repr(error)]


@pytest.mark.parametrize("name", OBJECTS)
def test_object_with_secret_does_not_show_it(name: str, metrics: HttpMetrics) -> None:
    """No `repr` or `str` of an object, or of what it is made of, has its secret in it."""
    for value in _reached(OBJECTS[name](metrics)):
        assert SECRET not in repr(value)
        assert SECRET not in str(value)
        if isinstance(value, Settings):
            assert SECRET not in repr(dataclasses.asdict(value))


@pytest.mark.parametrize("name", OBJECTS)
def test_object_with_secret_is_not_pickled(name: str, metrics: HttpMetrics) -> None:
    """A pickle is a file or a message that others read, so that none is made."""
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(OBJECTS[name](metrics))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copied_settings_are_equal_and_hide_the_secrets(
    copied: Callable[[Settings], Settings],
) -> None:
    """A copy has the same secrets, which are shown as little."""
    settings = _settings()
    replaced = dataclasses.replace(copied(settings), limit="1/minute")

    assert copied(settings) == settings
    assert copy.copy(hide(SECRET)) == hide(SECRET)
    assert SECRET not in repr(replaced)
    assert (replaced.admin_token, replaced.limit_storage) == (hide(SECRET), hide_url(STORAGE))


def test_secret_of_other_value_is_not_equal() -> None:
    """Secrets are compared by their values, whatever they show."""
    assert Secret("a") != Secret("b")
    assert Secret("a") == Secret("a", shown="b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_settings_show_where_a_storage_is() -> None:
    """Only what is secret in a URL is hidden, so that settings can still be compared by eye."""
    shown = repr(_settings())

    assert f"admin_token={MASK!r}, " in shown
    assert "limit_storage='async+redis://user:***@127.0.0.1:1/2', " in shown
    assert "alert_store='postgresql+asyncpg://user:***@127.0.0.1:1/name', " in shown


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_raises_an_error_that_hides_the_others(
    name: str, metrics: HttpMetrics
) -> None:
    """Neither the error's text nor the locals of a frame of ours have the secret in them."""
    with pytest.raises((ValueError, TypeError)) as caught:
        WRONG[name](metrics)

    assert SECRET not in _with_locals(caught.value)


def test_wrong_argument_keeps_the_traceback_of_what_the_caller_handles() -> None:
    """Only tracebacks inside of the constructor are dropped."""
    handled = KeyError("name")

    def make() -> None:
        try:
            raise handled
        except KeyError:
            Settings(alert_interval=-1)

    with pytest.raises(ValueError, match="alert_interval must be") as caught:
        make()

    assert caught.value.__context__ is handled
    assert handled.__traceback__ is not None


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["webhook", "slack", "alertmanager"])
async def test_sink_that_fails_hides_the_secret(
    name: str, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither its error nor any line of the log has the secret in it."""
    caplog.set_level(logging.DEBUG)
    sink: Any = OBJECTS[name](metrics)

    with pytest.raises(RetryLater) as caught:
        await sink(event())
    await sink.aclose()

    assert SECRET not in _with_locals(caught.value)
    assert SECRET not in caplog.text


class _Quoting:
    """A transport whose error quotes the whole request."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise RuntimeError(f"{request.url} {request.headers}")

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.mark.anyio
async def test_transport_that_quotes_the_request_is_not_quoted() -> None:
    """The error of a transport is named by its class alone."""
    sink = WebhookSink(WEBHOOK, headers=HEADERS, transport=_Quoting())

    with pytest.raises(
        RetryLater, match=r"^http://127.0.0.1:1 request failed \(RuntimeError\)$"
    ) as e:
        await sink(event())

    assert SECRET not in _with_locals(e.value)


def test_store_that_fails_hides_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """Neither its error nor any line of the log has the password in it."""
    caplog.set_level(logging.DEBUG)
    store = SQLAlertStore(DATABASE.replace(":1/", f":{free_port()}/"))

    async def load() -> None:
        try:
            await store.load()
        finally:
            await store.aclose()

    with pytest.raises(StoreError) as caught:
        anyio.run(load)

    assert SECRET not in _with_locals(caught.value)
    assert SECRET not in caplog.text


def test_storage_that_fails_hides_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """The line on the outage names the storage without its password."""
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


def test_endpoints_do_not_show_the_settings_secrets(metrics: HttpMetrics) -> None:
    """No answer of ours, to whoever has the token, has a secret in it."""
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
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert SECRET not in f"{answer.text} {answer.headers}"


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
def test_masked_url_shows_only_the_place(url: str, shown: str) -> None:
    """The scheme, a user with a password, the host, the port and the path are shown."""
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
    """A password is replaced as it is written in the URL, and decoded."""
    assert redact(text, hide_url(url)) == redacted

"""Schemes and options of database URLs, as cloud vendors and other clients write them."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tokenpulse_mw import Settings, TokenPulse
from tokenpulse_mw.alerts.store import SQLAlertStore
from tokenpulse_mw.alerts.store.sql.url import driver_arguments, parse_url
from tokenpulse_mw.secret import Secret

PLAIN = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,
}


def arguments(query: str) -> dict[str, Any]:
    """Return the arguments of asyncpg for the options."""
    url, found = driver_arguments(make_url(f"postgresql+asyncpg://u:hunter2@h/d?{query}"))
    assert url.query == {}
    return found


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg"),
        ("sqlite:///alerts.db", "sqlite+aiosqlite"),
    ],
)
def test_scheme_without_a_driver_uses_the_asynchronous_one(url: str, driver: str) -> None:
    """Vendors hand out URLs without a driver; another driver is kept."""
    assert parse_url(Secret(url)).drivername == driver


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sslmode=require", {"dsn": "postgresql://?sslmode=require"}),
        ("ssl=true", {"dsn": "postgresql://?sslmode=require"}),
        ("ssl=verify-full&sslmode=disable", {"dsn": "postgresql://?sslmode=disable"}),
        ("connect_timeout=5", {"timeout": 5.0}),
        ("command_timeout=0.5", {"command_timeout": 0.5}),
        ("pgbouncer=true", {}),
        ("prepareThreshold=0&prepared_statements=false", {}),
        (
            "application_name=my%20gateway&options=-c%20search_path%3Dx",
            {"dsn": "postgresql://?application_name=my+gateway&options=-c+search_path%3Dx"},
        ),
        ("target_session_attrs=primary", {"dsn": "postgresql://?target_session_attrs=primary"}),
    ],
)
def test_option_of_another_client_is_translated(query: str, expected: dict[str, Any]) -> None:
    """Options of libpq are passed in a DSN, which asyncpg reads like libpq."""
    assert arguments(query) == {**PLAIN, **expected}


def test_certificates_of_the_system_are_used() -> None:
    """`sslrootcert=system` verifies the certificate and the host name."""
    context = arguments("sslrootcert=system&application_name=gateway")["ssl"]

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_location_in_options_stays_in_the_url() -> None:
    """SQLAlchemy reads several hosts, and the folder of a socket."""
    parsed = make_url("postgresql+asyncpg://u:p@/d?host=a:1&host=b:2&sslmode=require")

    url, found = driver_arguments(parsed)

    assert dict(url.query) == {"host": ("a:1", "b:2")}
    assert found["dsn"] == "postgresql://?sslmode=require"


def test_options_of_another_driver_stay_in_the_url() -> None:
    """Psycopg reads the options of libpq itself."""
    url = make_url("postgresql+psycopg://u:hunter2@h/d?sslmode=require&channel_binding=require")

    assert driver_arguments(url) == (url, {})


def test_option_without_effect_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The line names the option, not its value."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")

    assert arguments("channel_binding=require&statement_cache_size=100") == PLAIN

    assert caplog.messages == [
        "option of the database URL has no effect: name=channel_binding",
        "option of the database URL has no effect: name=statement_cache_size",
    ]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (
            "sslmod=require",
            "url must have options of its driver, got 'sslmod': did you mean sslmode",
        ),
        ("xyz=hunter2", "url must have options of its driver, got 'xyz': remove it"),
        ("sslmode=no-verify", "sslmode in url must be one of disable, allow, .* got 'no-verify'"),
        ("ssl=maybe", "ssl in url must be one of disable, .* got 'maybe'"),
        ("target_session_attrs=x", "target_session_attrs in url must be one of any, .* got 'x'"),
        ("connect_timeout=0", "connect_timeout in url must be a number of seconds above 0, got 0"),
        ("connect_timeout=5s", "connect_timeout in url must be a number of seconds .* got '5s'"),
        ("sslmode=require&sslmode=allow", "sslmode in url must be given once, got 2 values"),
        (
            "sslrootcert=/no/ca.pem",
            "sslrootcert in url must be the path of a file, got '/no/ca.pem'",
        ),
        (
            "sslmode=require&sslrootcert=system",
            "sslmode in url with sslrootcert=system must be one of verify-full, got 'require'",
        ),
        ("sslrootcert=system&sslkey=k.pem", "must not have both sslrootcert=system and sslkey"),
    ],
)
def test_invalid_option_is_rejected_by_the_constructor(query: str, error: str) -> None:
    """The error names the option, and never shows the password."""
    with pytest.raises(ValueError, match=error) as caught:
        SQLAlertStore(f"postgresql://u:hunter2@h/d?{query}")

    assert "hunter2" not in str(caught.value)


def test_unknown_option_of_sqlite_is_rejected(tmp_path: Path) -> None:
    """Without `uri=true` SQLite reads no options."""
    with pytest.raises(ValueError, match="options of its driver, got 'mode': remove it"):
        SQLAlertStore("sqlite:///alerts.db?mode=rw")

    SQLAlertStore(f"sqlite:///file:{tmp_path}/alerts.db?mode=rwc&uri=true")
    SQLAlertStore("sqlite:///alerts.db?cached_statements=10")


def test_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator reads which variable has the option."""
    monkeypatch.setenv("TOKENPULSE_ALERT_STORE", "postgres://u:hunter2@h/d?sslmode=on")

    with pytest.raises(ValueError, match=r"^sslmode in TOKENPULSE_ALERT_STORE must be one of"):
        TokenPulse(settings=Settings())

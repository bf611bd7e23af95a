"""TOML file whose limit changes at run time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tokenpulse_mw import Policy, Settings, TokenPulse
from tokenpulse_mw.stack import config_file
from tokenpulse_mw.stack.config_file import ConfigFile

from .support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


class Config:
    """A TOML file, and the limit that is made from it.

    Args:
        folder: Folder of the file.
        monkeypatch: Sets the variable that names the file.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "gateway.toml"
        self._changes = 0
        self.write('log_level = "INFO"\nlimit = "5/minute"\n')
        monkeypatch.setenv("TOKENPULSE_CONFIG", str(self.path))

    def write(self, text: str) -> None:
        """Write the file, with a time of its own."""
        self._changes += 1
        self.path.write_text(text)
        os.utime(self.path, (self._changes, self._changes))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return the file of the settings."""
    return Config(tmp_path, monkeypatch)


def test_changed_limit_applies_and_keeps_the_counts(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """The change is logged once, with the file."""
    policy = Policy("5/minute")
    file = ConfigFile(Settings(), policy)
    policy.local.hit("ada", 4)
    caplog.set_level(logging.WARNING)

    for text in ('limit = "5/minute"\n', 'limit = "9/minute"\n', 'limit="9/minute"'):
        config.write(text)
        file.refresh()
        file.refresh()

    assert policy.local.peek("ada", 0).remaining == 5
    assert caplog.messages == [f"limit changed: policy=default to=9/minute file={config.path}"]


@pytest.mark.parametrize(
    ("text", "line", "error"),
    [
        ('log_level = "INFO"\nlimit = "fast"\n', "2", "limit must be one rate"),
        ('\n\n"limit" = "5 EUR/day"\n', "3", "limit must be in USD"),
        ("limit = 5\n", "1", "limit must be a rate such as '100/minute', got 5"),
        ('limit = "none"\n', "1", "limit must be one rate"),
        ('a = 1\nlimit = "9/minute\n', "2", "Illegal character"),
        ("limit = [", "last", "Invalid value"),
        ("limit = " + "[" * 5000, "1", "maximum recursion depth exceeded"),
        ('log_level = "INFO"\n', "unknown", "limit is missing: turning the limit off"),
    ],
)
def test_file_with_a_mistake_changes_nothing(
    config: Config, caplog: pytest.LogCaptureFixture, text: str, line: str, error: str
) -> None:
    """One log line has the file and the line; the corrected file applies."""
    policy = Policy("5/minute")
    file = ConfigFile(Settings(), policy)

    config.write(text)
    file.refresh()
    file.refresh()

    [message] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert message.startswith(
        "config file has a mistake, limits stay as they are: "
        f"file={config.path} line={line} error={error}"
    )
    assert policy.version == 0
    config.write('limit = "9/minute"\n')
    file.refresh()
    assert policy.limiter.limit == 9


def test_file_that_is_missing_for_a_moment_is_read_later(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """Editors and Kubernetes replace files."""
    policy = Policy("5/minute")
    file = ConfigFile(Settings(), policy)

    config.path.unlink()
    file.refresh()
    config.path.write_bytes(b"\xff")
    file.refresh()
    config.write('limit = "9/minute"\n')
    file.refresh()

    assert policy.limiter.limit == 9
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_limit_of_the_admin_api_precedes_the_file(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """A change of the file does not end a block; after the block is undone, the file applies."""
    policy = Policy("5/minute")
    file = ConfigFile(Settings(), policy)
    policy.set_rate("0", by="ada")

    config.write('limit = "9/minute"\n')
    file.refresh()
    assert (policy.shown_limit, policy.configured_limit) == ("0 per minute", "9 per minute")
    assert caplog.messages[-1].endswith("(after that of the admin API is undone)")

    policy.restore_rate()
    assert policy.shown_limit == "9 per minute"
    config.write('limit = "8/minute"\n')
    file.refresh()
    assert policy.shown_limit == "8 per minute"


def test_limit_of_a_variable_does_not_follow_the_file(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable precedes the file."""
    monkeypatch.setenv("TOKENPULSE_LIMIT", "7/minute")
    policy = Policy("7/minute")
    file = ConfigFile(Settings(), policy)

    config.write('limit = "9/minute"\n')
    file.refresh()

    assert policy.limiter.limit == 7


@pytest.mark.anyio
async def test_running_gateway_follows_the_file(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of each client is watched, and those of the application are not."""
    monkeypatch.setattr(config_file, "_INTERVAL", 0.001)
    pulse, own = TokenPulse(), TokenPulse(limit="5/minute")

    async with pulse.lifespan(), own.lifespan():
        config.write('limit = "9/minute"\n')
        await anyio.to_thread.run_sync(wait_until, lambda: pulse.policies[0].limiter.limit == 9)

    assert own.policies[0].limiter.limit == 5


@pytest.mark.anyio
async def test_gateway_without_a_file_watches_nothing() -> None:
    """The task ends at once."""
    values: dict[str, Any] = {"limit": "5/minute"}
    await ConfigFile(Settings(**values), Policy("5/minute")).watch()

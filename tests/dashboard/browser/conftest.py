"""Chromium and the server of the live page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from ...support.servers import need
from .gateway import Gateway

# No service of the browser uses the network.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-precise-memory-info",
    "--js-flags=--expose-gc",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Yield a Chromium with a new profile.

    Playwright runs an event loop in this thread, which would disturb the tests of other modules.
    """
    need("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=ARGUMENTS
        )
        yield browser
        browser.close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Yield a server of the live page."""
    gateway = Gateway()
    gateway.start()
    yield gateway
    gateway.stop()

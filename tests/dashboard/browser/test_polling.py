"""Polling of the live page: when it loads, when it pauses, and how it reports failures."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from playwright.sync_api import Browser, Page, expect

from .driver import LivePage, open_page, settle
from .gateway import TOKEN, Gateway
from .scenes import busy, incident

pytestmark = pytest.mark.slow

HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def wait(live: LivePage, seconds: float) -> None:
    """Let the timers of the page run for a time, and wait until it has loaded what was due."""
    live.page.clock.run_for(round(seconds * 1000))
    settle(live.page)


def test_page_loads_again_after_each_period(chromium: Browser, gateway: Gateway) -> None:
    """The state is loaded once in each period, which is kept for the next visit."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN, clock=True) as live:
        gateway.paths()
        wait(live, 6)
        assert gateway.paths().count("GET live/state") == 1
        live.page.get_by_label("every").select_option("60 s")
        wait(live, 30)
        assert gateway.paths() == []
        wait(live, 31)
        assert gateway.paths().count("GET live/state") == 1

        live.page.reload()
        expect(live.page.get_by_label("every")).to_have_value("60")


def test_unchanged_state_is_not_sent_again(chromium: Browser, gateway: Gateway) -> None:
    """A state that has not changed is answered with 304, and counts as an answer."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN, clock=True) as live:
        statuses: list[int] = []
        live.page.on(
            "response",
            lambda response: (
                statuses.append(response.status) if "live/state" in response.url else None
            ),
        )
        wait(live, 6)
        gateway.changed()
        wait(live, 6)

        assert statuses == [304, 200]
        expect(live.page.locator("#age")).to_have_text(re.compile(r"last answer [01] s ago"))


def test_requests_are_sent_one_after_another(chromium: Browser, gateway: Gateway) -> None:
    """At most one request of the polling is in flight."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN) as live:
        for _ in range(3):
            live.page.get_by_role("button", name="Refresh").click()
        settle(live.page)
        spans = live.page.evaluate(
            """performance.getEntriesByType("resource")
              .filter((entry) => entry.initiatorType === "fetch")
              .map((entry) => [entry.startTime, entry.responseEnd]).sort((a, b) => a[0] - b[0])"""
        )

        assert len(spans) > 20
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_hidden_page_loads_nothing(chromium: Browser, gateway: Gateway) -> None:
    """A hidden page sends no request, and loads at once when it is visible again."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN, clock=True) as live:
        live.page.evaluate(HIDE, True)
        gateway.paths()
        wait(live, 120)
        assert gateway.paths() == []

        live.page.evaluate(HIDE, False)
        settle(live.page)
        assert "GET live/state" in gateway.paths()


def pause_by_dialog(page: Page) -> None:
    """Open a dialog."""
    page.locator("main tbody tr").first.get_by_role("button", name="Ack").click()


def pause_by_field(page: Page) -> None:
    """Begin to edit a threshold."""
    page.get_by_label("error rate", exact=True).focus()


def pause_by_key(page: Page) -> None:
    """Press the key that pauses."""
    page.keyboard.press("r")


def pause_by_period(page: Page) -> None:
    """Select no period."""
    page.get_by_label("every").select_option("off")


@pytest.mark.parametrize(
    ("pause", "shown"),
    [
        (pause_by_dialog, "paused: editing"),
        (pause_by_field, "paused: editing"),
        (pause_by_key, "paused"),
        (pause_by_period, "paused: off"),
    ],
)
def test_paused_page_loads_nothing_and_says_so(
    chromium: Browser, gateway: Gateway, pause: object, shown: str
) -> None:
    """While a dialog or a form is edited, or after a command, nothing is loaded; the age grows."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN, clock=True) as live:
        assert callable(pause)
        pause(live.page)
        gateway.paths()
        wait(live, 200)

        assert gateway.paths() == []
        expect(live.page.locator("#paused")).to_have_text(shown)
        expect(live.page.locator("#age")).to_have_text(re.compile(r"last answer 2\d\d s ago"))
        expect(live.page.locator("body")).to_have_class("stale")


def test_focused_filter_does_not_pause(chromium: Browser, gateway: Gateway) -> None:
    """A filter applies to new data, so the page loads while it has the focus, which it keeps."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN, clock=True) as live:
        search = live.page.get_by_label("Filter alerts by text")
        search.fill("prod-2")
        gateway.show(incident)
        wait(live, 6)

        expect(live.section("Alerts").locator("tbody tr")).to_have_count(1)
        expect(search).to_be_focused()
        expect(search).to_have_value("prod-2")


def test_failures_are_retried_with_longer_waits(chromium: Browser, gateway: Gateway) -> None:
    """After failures the wait doubles up to a minute; old data are grey, and success ends it."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN, clock=True) as live:
        age = live.page.locator("#age")
        gateway.failing["live/state"] = (503, "")
        wait(live, 6)
        for seconds in (10, 20, 40, 60, 60):
            expect(age).to_contain_text("next attempt in")
            left = re.search(r"attempt in (\d+) s", age.inner_text())
            assert left is not None
            assert seconds - 4 <= int(left[1]) <= seconds
            gateway.paths()
            wait(live, int(left[1]) - 2)
            assert gateway.paths() == []
            wait(live, 3)
        expect(live.page.locator("body")).to_have_class("stale")
        expect(live.page).to_have_title("gateway \u2013 not up to date")
        expect(live.page.locator("#icon")).to_have_attribute("href", "old.svg")
        expect(live.row("claude")).to_be_visible()

        gateway.failing.clear()
        gateway.changed()  # so that the rules have just been evaluated
        live.page.get_by_role("button", name="Refresh").click()
        expect(age).not_to_contain_text("next attempt")
        expect(live.page.locator("body")).not_to_have_class("stale")
        expect(live.page).to_have_title("gateway \u2013 ok")


@pytest.mark.parametrize(
    ("status", "note"),
    [(404, "Not available in this gateway."), (503, "Not up to date:")],
)
def test_failed_section_keeps_its_data(
    chromium: Browser, gateway: Gateway, status: int, note: str
) -> None:
    """A section that cannot be loaded says so and keeps its rows; the others are loaded."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN) as live:
        gateway.failing["live/routes"] = (status, "")
        gateway.scene.tenants[0]["name"] = "renamed"
        gateway.changed()
        refresh = live.page.get_by_role("button", name="Refresh")
        refresh.click()
        expect(live.page.locator("#note-routes")).to_contain_text(note)
        expect(live.row("/v1/embeddings")).to_be_visible()
        expect(live.row("renamed")).to_be_visible()

        gateway.failing.clear()
        refresh.click()
        expect(live.page.locator("#note-routes")).to_be_empty()


def test_gateway_that_is_away_at_first_is_reported(chromium: Browser, gateway: Gateway) -> None:
    """If the first request fails, the form says why."""
    gateway.failing["live/state"] = (500, "")
    with open_page(chromium, gateway.url) as live:
        expect(live.page.locator("#loginError")).to_contain_text("failed")


def test_new_critical_alert_is_announced_once(chromium: Browser, gateway: Gateway) -> None:
    """A critical alert that was not there before is announced to screen readers."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN, clock=True) as live:
        expect(live.page.locator("#alarm")).to_be_empty()
        gateway.show(incident)
        wait(live, 6)

        expect(live.page.locator("#alarm")).to_have_text(
            "New critical alert: Credential is failing: prod-2"
        )

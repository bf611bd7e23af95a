"""Keyboard of the live page."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from .driver import open_page
from .gateway import TOKEN, Gateway
from .scenes import incident

pytestmark = pytest.mark.slow


def test_alert_is_acknowledged_and_silenced_by_keyboard(
    chromium: Browser, gateway: Gateway
) -> None:
    """Log in, select an alert, acknowledge it, silence it and filter, without a pointer."""
    gateway.show(incident)
    with open_page(chromium, gateway.url) as live:
        page, keys = live.page, live.page.keyboard
        expect(page.get_by_label("Token", exact=True)).to_be_focused()
        keys.type(TOKEN)
        keys.press("Enter")
        row = live.row("Credential is failing")
        expect(row).to_be_visible()
        expect(page.locator("#login")).to_be_hidden()

        keys.press("j")
        expect(row).to_be_focused()
        keys.press("a")
        expect(page.get_by_label("Note")).to_be_focused()
        keys.type("mine")
        keys.press("Enter")
        expect(row).to_contain_text("acknowledged")
        expect(row).to_be_focused()

        keys.press("j")
        keys.press("k")
        keys.press("s")
        expect(page.locator("#dialog")).to_contain_text("Silence alerts")
        keys.press("Enter")
        expect(row).to_contain_text("silenced")

        keys.press("Enter")
        expect(page.locator("#dialog")).to_contain_text("Transitions")
        keys.press("Escape")
        keys.press("/")
        keys.type("acme")
        expect(live.section("Alerts").locator("tbody tr")).to_have_count(1)
        keys.press("Escape")
        expect(page.get_by_label("Filter alerts by text")).not_to_be_focused()


def test_digits_go_to_sections(chromium: Browser, gateway: Gateway) -> None:
    """Each digit moves the focus to the heading of a section."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        headings = live.page.locator("main h2")
        names = headings.all_inner_texts()
        for number, name in enumerate(names, 1):
            live.page.keyboard.press(str(number))
            expect(headings.nth(number - 1)).to_be_focused()
            link = live.page.get_by_role("link", name=f"{number}{name}")
            assert link.count() == 1


def test_function_keys_belong_to_the_browser(chromium: Browser, gateway: Gateway) -> None:
    """A function key, such as F5, is not the digit in its name."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        prevented = live.page.evaluate(
            """() => !document.body.dispatchEvent(
                new KeyboardEvent("keydown", {key: "F5", bubbles: true, cancelable: true}))"""
        )

        assert prevented is False


def test_theme_is_switched_and_kept(chromium: Browser, gateway: Gateway) -> None:
    """The key `t` switches from auto to light, dark and back, and the choice is kept."""
    with open_page(chromium, gateway.url, TOKEN, color_scheme="light") as live:
        body = live.page.locator("body")
        light = body.evaluate("body => getComputedStyle(body).backgroundColor")
        live.page.keyboard.press("t")
        live.page.keyboard.press("t")
        expect(live.page.get_by_label("theme")).to_have_value("dark")
        assert body.evaluate("body => getComputedStyle(body).backgroundColor") != light

        live.page.reload()
        expect(live.page.locator("html")).to_have_attribute("data-theme", "dark")


def test_single_keys_can_be_switched_off(chromium: Browser, gateway: Gateway) -> None:
    """The help lists the keys, and has a switch that turns them off (WCAG 2.1.4)."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        live.page.keyboard.press("?")
        dialog = live.page.locator("#dialog")
        expect(dialog).to_contain_text("acknowledge")
        dialog.get_by_label("single keys").uncheck()
        live.page.keyboard.press("Escape")
        live.page.keyboard.press("?")

        expect(dialog).to_be_hidden()


@pytest.mark.parametrize("modifier", ["ctrlKey", "altKey", "metaKey"])
def test_keys_with_a_modifier_belong_to_the_browser(
    chromium: Browser, gateway: Gateway, modifier: str
) -> None:
    """A key with Ctrl, Alt or Meta is not a command, nor is one in a field."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        live.page.evaluate(
            """(name) => document.body.dispatchEvent(
                new KeyboardEvent("keydown", {key: "r", [name]: true, bubbles: true}))""",
            modifier,
        )
        live.page.get_by_label("Filter alerts by text").press("r")

        pause = live.page.get_by_role("button", name="Pause")
        expect(pause).to_have_attribute("aria-pressed", "false")


def test_cursor_of_the_charts_moves_by_keyboard(chromium: Browser, gateway: Gateway) -> None:
    """The time under the cursor is chosen with the arrow keys, for all charts at once."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        slider = live.page.get_by_label("Time", exact=True)
        expect(live.page.locator("#cursorAt")).to_contain_text("latest")
        slider.press("Home")
        expect(live.page.locator("#cursorAt")).not_to_contain_text("latest")
        first = live.page.locator("figure b").first.inner_text()
        slider.press("End")
        expect(live.page.locator("#cursorAt")).to_contain_text("latest")
        assert live.page.locator("figure b").first.inner_text() != first


def test_rows_are_sorted_by_the_heading(chromium: Browser, gateway: Gateway) -> None:
    """A heading sorts its table, and says in which direction."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        table = live.section("Routes")
        heading = table.get_by_role("columnheader", name="Requests/min")
        heading.get_by_role("button").click()
        heading.get_by_role("button").click()
        expect(heading).to_have_attribute("aria-sort", "ascending")
        expect(table.locator("tbody tr").first).to_contain_text("/v1/embeddings")

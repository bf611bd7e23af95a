"""Login form of the live page."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from .driver import open_page, settle
from .gateway import TOKEN, Gateway
from .scenes import busy

pytestmark = pytest.mark.slow


def test_page_without_token_shows_only_the_form(chromium: Browser, gateway: Gateway) -> None:
    """Before the login nothing but the form is visible, also after Escape."""
    with open_page(chromium, gateway.url) as live:
        expect(live.page.get_by_label("Token", exact=True)).to_be_focused()
        for _ in range(3):
            live.page.keyboard.press("Escape")

        expect(live.page.get_by_label("Token", exact=True)).to_be_visible()
        expect(live.page.locator("main")).to_be_hidden()


def test_form_says_which_token_is_asked_for(chromium: Browser, gateway: Gateway) -> None:
    """The form names the product and the variable that has the token."""
    with open_page(chromium, gateway.url) as live:
        form = live.page.get_by_role("dialog", name="Log in to tokenpulse-mw")

        expect(form).to_contain_text("TOKENPULSE_ADMIN_TOKEN")


def test_wrong_token_is_rejected_and_kept(chromium: Browser, gateway: Gateway) -> None:
    """A wrong token stays in its field, and the next one may be right."""
    with open_page(chromium, gateway.url) as live:
        live.log_in("wrong")
        expect(live.page.locator("#loginError")).to_have_text("This token is not accepted.")
        expect(live.page.get_by_label("Token", exact=True)).to_have_value("wrong")

        live.log_in(TOKEN)
        expect(live.page.locator("main")).to_be_visible()
        expect(live.page.get_by_label("Token", exact=True)).to_have_value("")


def test_too_many_tokens_say_when_to_try_again(chromium: Browser, gateway: Gateway) -> None:
    """After 429, the form says how long to wait and until when."""
    with open_page(chromium, gateway.url) as live:
        expect(live.page.get_by_label("Token", exact=True)).to_be_visible()
        gateway.failing["live/state"] = (429, "42")
        live.log_in("wrong")

        expect(live.page.locator("#loginError")).to_contain_text("try again in 42 s, at ")


@pytest.mark.parametrize("token", ["", "sécret-☃"], ids=["proxy", "not ASCII"])
def test_each_token_of_the_server_works(chromium: Browser, gateway: Gateway, token: str) -> None:
    """A token may have any characters; without one, a proxy has authorized the user."""
    gateway.token = token
    with open_page(chromium, gateway.url, token) as live:
        expect(live.page.locator("main")).to_be_visible()
        expect(live.page.get_by_label("Token", exact=True)).to_be_hidden()
        expect(live.page.locator("#logout")).to_be_visible(visible=bool(token))


@pytest.mark.parametrize("keep", [False, True])
def test_token_is_kept_in_the_tab_only_on_request(
    chromium: Browser, gateway: Gateway, keep: bool
) -> None:
    """A reload needs the token again unless it is kept; a log out forgets it; no cookie is set."""
    with open_page(chromium, gateway.url) as live:
        live.page.get_by_label("keep in this tab").set_checked(keep)
        live.log_in(TOKEN)
        settle(live.page)
        live.page.reload()
        expect(live.page.get_by_label("Token", exact=True)).to_be_visible(visible=not keep)
        if keep:
            live.page.get_by_role("button", name="Log out").click()
            expect(live.page.get_by_label("Token", exact=True)).to_be_visible()

        assert live.page.context.cookies() == []
        assert live.page.evaluate("sessionStorage.length") == 0
        assert not any(TOKEN in path for path in gateway.log)


def test_lost_login_keeps_the_page(chromium: Browser, gateway: Gateway) -> None:
    """If the token is no longer accepted, the form is above the page, whose filter is kept."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN) as live:
        search = live.page.get_by_label("Filter alerts by text")
        search.fill("claude")
        gateway.token = "new"
        live.page.get_by_role("button", name="Refresh").click()
        expect(live.page.locator("#loginError")).to_contain_text("no longer accepted")

        live.log_in("new")
        expect(live.page.get_by_label("Token", exact=True)).to_be_hidden()
        expect(search).to_have_value("claude")
        expect(live.row("mistral")).to_be_visible()

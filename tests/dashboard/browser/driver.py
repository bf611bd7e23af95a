"""Driver of the live page in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect

# A failed request is an error in the console, but not one of the page.
_FAILED_REQUEST = "Failed to load resource"
_REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`${event.violatedDirective} violated: ${event.blockedURI} ${event.sample}`));
"""
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class LivePage:
    """A live page that is open in a browser.

    Attributes:
        page: The page.
        faults: Errors of the console, exceptions, violations of the Content Security Policy, and
            requests to other hosts.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.add_init_script(_REPORT_VIOLATIONS)
        page.context.route("**/*", self._on_request)

    def log_in(self, token: str) -> None:
        """Fill in and submit the login form."""
        self.page.get_by_label("Token", exact=True).fill(token)
        self.page.get_by_role("button", name="Log in").click()

    def section(self, name: str) -> Locator:
        """Return the section with a heading."""
        return self.page.get_by_role("region", name=name, exact=True)

    def row(self, text: str) -> Locator:
        """Return the table row that has a text."""
        return self.page.locator("main tbody tr").filter(has_text=text).first

    def violations(self) -> list[str]:
        """Return the violations of WCAG 2.2 AA that axe finds, with the elements."""
        options: dict[str, Any] = {"runOnly": {"type": "tag", "values": _TAGS}}
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{violation['id']}: {node['html'][:300]} {node.get('failureSummary', '')[:300]}"
            for violation in found
            for node in violation["nodes"][:3]
        ]

    def hide_partly(self, element: Locator) -> None:
        """Scroll the page so that the fixed header hides all but 12 pixels of an element."""
        element.evaluate(
            """(element) => {
              const headers = [...document.querySelectorAll("header, header .top")];
              const bottom = Math.max(...headers
                .filter((header) => ["fixed", "sticky"].includes(getComputedStyle(header).position))
                .map((header) => header.getBoundingClientRect().bottom));
              const by = element.getBoundingClientRect().bottom - bottom - 12;
              scrollBy({ top: by, behavior: "instant" });
            }"""
        )

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and _FAILED_REQUEST not in message.text:
            self.faults.append(f"console: {message.text}")

    def _on_request(self, route: Route) -> None:
        host = urlsplit(route.request.url).hostname
        if host == "127.0.0.1":
            route.continue_()
        else:
            self.faults.append(f"request: {route.request.url}")
            route.abort()


@contextmanager
def open_page(
    browser: Browser,
    url: str,
    token: str = "",
    *,
    width: int = 1280,
    height: int = 900,
    clock: bool = False,
    **options: Any,
) -> Iterator[LivePage]:
    """Open the live page at `url` and log in if there is a token; fail if the page has a fault.

    Args:
        browser: The browser.
        url: URL of the page.
        token: Token for the login form; empty: none is needed.
        width: Width of the window.
        height: Height of the window.
        clock: Replace the timers of the page by those of `page.clock`.
        options: Options of the browser context, such as `color_scheme`.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height}, service_workers="block", **options
    )
    try:
        page = context.new_page()
        live = LivePage(page)
        if clock:
            page.clock.install()
        page.goto(url)
        if token:
            live.log_in(token)
            expect(page.locator("main")).to_be_visible()
            settle(page)
        yield live
        assert live.faults == []
    finally:
        context.close()


def settle(page: Page) -> None:
    """Wait until all sections are loaded, and nothing else is."""
    page.locator("#fields input").first.wait_for(state="attached")
    page.locator("body:not(.loading)").wait_for()

"""Live page of a large gateway: bounded work, nodes and memory."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tokenpulse_mw.alerts import Subject

from .driver import open_page, settle
from .gateway import TOKEN, Gateway
from .scenes import alert, large, rejection

pytestmark = pytest.mark.slow

PERIOD = 5  # seconds between two updates
HOUR = 3600 // PERIOD  # updates

WATCH = """() => {
  window.touched = new Set();
  const row = (node) => (node.nodeType === 1 ? node : node.parentElement)?.closest("tbody tr");
  new MutationObserver((records) => {
    for (const record of records) {
      const changed = row(record.target);
      if (changed) window.touched.add(changed.firstChild.textContent);
    }
  }).observe(document.getElementById("t-providers"), { subtree: true, childList: true,
    characterData: true, attributes: true });
}"""


def test_only_changed_rows_are_touched(chromium: Browser, gateway: Gateway) -> None:
    """An update changes the cells with other values only; all other rows stay as they are."""
    gateway.show(large)
    for row in gateway.scene.state["providers"]:
        row["last_success_at"] = None  # its text changes with time
    with open_page(chromium, gateway.url, TOKEN) as live:
        expect(live.section("Providers").locator("#t-providers tbody tr")).to_have_count(50)
        live.page.evaluate(WATCH)
        gateway.scene.state["providers"][7]["requests_per_minute"] = 12_345
        gateway.changed()
        live.page.get_by_role("button", name="Refresh").click()
        expect(live.row("provider-07")).to_contain_text("12,345")
        settle(live.page)

        assert live.page.evaluate("[...window.touched]") == ["provider-07"]


def test_number_of_nodes_is_bounded(chromium: Browser, gateway: Gateway) -> None:
    """With 50 providers and 5,000 tenants, the page has few nodes, and pages of tenants."""
    gateway.show(large)
    with open_page(chromium, gateway.url, TOKEN) as live:
        tenants = live.page.locator("#t-tenants tbody tr")
        expect(tenants).to_have_count(50)
        assert live.page.locator("*").count() < 8_000

        live.page.get_by_role("button", name="Next page").click()
        expect(tenants.first).to_contain_text("tenant 0050")
        live.page.get_by_role("button", name="First page").click()
        expect(tenants.first).to_contain_text("tenant 0000")
        live.page.get_by_label("Search tenants").fill("4711")
        expect(tenants).to_have_count(1)


def test_memory_does_not_grow_in_an_hour(chromium: Browser, gateway: Gateway) -> None:
    """After an hour of new values, requests and alerts, the page uses about the same memory."""
    gateway.show(large)
    with open_page(chromium, gateway.url, TOKEN, clock=True) as live:
        session = live.page.context.new_cdp_session(live.page)

        live.section("In flight").scroll_into_view_if_needed()  # loaded in each period then

        def memory() -> tuple[int, int]:
            """Return the bytes of the heap, and the number of nodes, also of removed ones."""
            session.send("HeapProfiler.collectGarbage")
            usage: dict[str, Any] = session.send("Runtime.getHeapUsage")
            return usage["usedSize"], session.send("Memory.getDOMCounters")["nodes"]

        def update(numbers: range) -> None:
            for number in numbers:
                change(gateway, number)
                live.page.clock.run_for(PERIOD * 1_000)
                settle(live.page)

        update(range(HOUR // 10))  # the engine of the browser has compiled the script
        gateway.paths()
        heap, nodes = memory()
        update(range(HOUR))

        heap_after, nodes_after = memory()
        assert heap_after - heap < 5e6
        assert nodes_after - nodes < 1_000
        assert gateway.paths().count("GET live/state") >= HOUR - 1


def change(gateway: Gateway, number: int) -> None:
    """Change what changes in a busy gateway: values, requests, processes, alerts."""
    scene = gateway.scene
    for row in scene.state["providers"]:
        row["requests_per_minute"] = number
    for place, row in enumerate(scene.inflight):
        row.update(id=f"{number}-{place}", tenant_name=f"tenant {number}")
    scene.rejections = [rejection(scene, 9, "requests", f"client {number}", number + 1)]
    if number % 60 == 0:  # as every 5 minutes
        scene.state["instance"]["id"] = f"process-{number}"
        subject = Subject("provider", f"p{number}")
        gateway.rule.findings = [alert("high_latency", subject, "warning", f"Slow {number}", "")]
        gateway.evaluate()
    gateway.changed()

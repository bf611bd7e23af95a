"""Screens of the live page: accessibility, hostile names, screenshots."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, expect

from tokenpulse_mw.alerts import Subject

from .driver import open_page, settle
from .gateway import TOKEN, Gateway
from .scenes import HOSTILE, SCENES, Scene, busy, hostile, incident

pytestmark = pytest.mark.slow

Theme = Literal["light", "dark"]
THEMES: list[Theme] = ["light", "dark"]


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_page_is_accessible_in_each_state(
    chromium: Browser,
    gateway: Gateway,
    tmp_path: Path,
    scene: Callable[[float], Scene],
    theme: Theme,
    width: int,
) -> None:
    """The page meets WCAG 2.2 AA and fits the window in each state, theme and width."""
    gateway.show(scene)
    folder = Path(os.environ.get("TOKENPULSE_SCREENSHOTS", tmp_path))
    with open_page(chromium, gateway.url, TOKEN, width=width, color_scheme=theme) as live:
        live.page.screenshot(path=folder / f"{scene.__name__}-{theme}-{width}.png", full_page=True)

        assert live.violations() == []
        assert live.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("theme", THEMES)
def test_dialogs_are_accessible(chromium: Browser, gateway: Gateway, theme: Theme) -> None:
    """Each dialog meets WCAG 2.2 AA."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, color_scheme=theme) as live:
        expect(live.page.locator("#login")).to_be_visible()
        assert live.violations() == []
        live.log_in(TOKEN)
        row = live.row("Credential is failing")
        buttons = [
            row.get_by_role("button", name="Ack"),
            row.get_by_role("button", name="Silence"),
            row.get_by_role("button", name="Credential is failing"),
            live.page.get_by_role("button", name="Help and keys"),
            live.section("Limits").get_by_role("button", name="Reset", exact=True).first,
            live.section("Limits").get_by_role("button", name="Block", exact=True).first,
        ]
        for button in buttons:
            button.click()
            expect(live.page.locator("#dialog")).to_be_visible()
            assert live.violations() == []
            live.page.keyboard.press("Escape")


def test_open_parts_are_accessible(chromium: Browser, gateway: Gateway) -> None:
    """The parts that are closed at first meet WCAG 2.2 AA."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN) as live:
        for summary in live.page.locator("summary").all():
            summary.click()
        live.page.get_by_label("Range").select_option("15 minutes")
        expect(live.page.locator("#tNumbers tbody tr")).to_have_count(60)
        settle(live.page)

        assert live.violations() == []


@pytest.mark.parametrize("width", [1280, 1000, 360])
def test_scrolled_page_is_accessible(chromium: Browser, gateway: Gateway, width: int) -> None:
    """No control becomes too small when the header hides a part of it."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN, width=width) as live:
        for element in ("summary", "td button", "input[type=search]"):
            live.hide_partly(live.page.locator(f"main {element}:visible").first)
            assert live.violations() == []


@pytest.mark.parametrize("width", [1280, 1000, 641, 360])
def test_header_hides_nothing_of_an_unscrolled_page(
    chromium: Browser, gateway: Gateway, width: int
) -> None:
    """The fixed part of the header has the height that is kept free, with a long name too."""
    gateway.show(incident)
    gateway.scene.state["service"] = "gateway of all the teams and of their friends"
    with open_page(chromium, gateway.url, TOKEN, width=width) as live:
        page = live.page
        expect(page.locator("#status")).to_be_in_viewport(ratio=1)
        for control in page.locator("header :is(button, select, a)").all():
            control.click(trial=True)
        first, header = (
            page.locator(f"{element}").bounding_box() for element in ("#problems", "nav")
        )
        assert first is not None
        assert header is not None
        assert first["y"] >= header["y"] + header["height"]


@pytest.mark.parametrize("width", [1280, 1920])
def test_tables_are_as_wide_as_their_card(chromium: Browser, gateway: Gateway, width: int) -> None:
    """Each table fills its card, so all of them end at the same edge."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN, width=width) as live:
        for summary in live.page.locator("summary").all():
            summary.click()
        settle(live.page)
        gaps = live.page.evaluate(
            """[...document.querySelectorAll("main table")].filter((table) => table.offsetWidth)
              .map((table) => table.closest("section").clientWidth - table.offsetWidth)"""
        )

        assert len(gaps) > 10
        assert max(gaps) <= 32  # the padding of the card


@pytest.mark.parametrize("width", [1280, 360])
def test_charts_have_times(chromium: Browser, gateway: Gateway, width: int) -> None:
    """Below each chart are the times of its beginning, middle and end, side by side."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN, width=width, timezone_id="UTC") as live:
        series = gateway.scene.series("provider", 3600)
        start = datetime.fromisoformat(series["from"])
        ends = [f"{start + timedelta(minutes=minutes):%H:%M}" for minutes in (0, 59.75)]
        charts = live.page.locator("#charts .times")
        assert charts.count() == 9
        for chart in charts.all():
            first, middle, last = chart.locator("span").all()
            assert [first.inner_text(), last.inner_text()] == ends
            boxes = [label.bounding_box() for label in (first, middle, last)]
            lefts = [box["x"] for box in boxes if box]
            rights = [box["x"] + box["width"] for box in boxes if box]
            assert rights[0] < lefts[1]
            assert rights[1] < lefts[2]


def test_requests_are_stacked(chromium: Browser, gateway: Gateway) -> None:
    """Each area ends at the sum of the rates below, breaks at a gap; the legend has the rates."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN) as live:
        chart = live.page.locator("#charts figure").first
        areas = [
            chart.locator(f"path.area.s{number}").get_attribute("d") or "" for number in range(4)
        ]
        requests = gateway.scene.series("provider", 3600)["series"]["requests"]
        known = [[value for value in row if value is not None] for row in requests]
        sums = [list(accumulate(values)) for values in zip(*known, strict=True)]
        highest = max(values[-1] for values in sums)

        assert [area.count("Z") for area in areas] == [2, 2, 2, 0]
        for rank, area in enumerate(areas[:3]):
            tops = [float(top) for top in re.findall(r"[ML][\d.]+ ([\d.]+)", area)]
            assert tops == pytest.approx(
                [80 - values[rank] / highest * 76 for values in sums], abs=0.06
            )
        rates = [float(rate) for rate in chart.locator("li b").all_inner_texts()]
        assert rates == pytest.approx([row[-1] / 15 for row in requests], abs=0.01)
        expect(chart.locator("small")).to_have_text(f"stacked, max {round(highest / 15, 1):g}")


def test_status_is_the_worst_of_alerts_and_problems(chromium: Browser, gateway: Gateway) -> None:
    """The status is not ok beside a problem, nor is there no problem while an alert fires."""
    gateway.show(busy)
    gateway.scene.state["status"] = "warn"
    gateway.scene.state["firing"]["warning"] = 1
    with open_page(chromium, gateway.url, TOKEN) as live:
        status, problems = live.page.locator("#status"), live.page.locator("#problems")
        expect(problems).to_have_text("No problem besides 1 alert")
        expect(status).to_have_text("▲ status warn")

        credential = gateway.scene.state["providers"][0]["credentials"][0]
        credential.update(rejected=9, consecutive_failures=9)
        gateway.changed()
        live.page.get_by_role("button", name="Refresh").click()
        expect(status).to_have_text("■ status error")
        expect(live.page).to_have_title("(1) gateway \u2013 error")


@pytest.mark.parametrize(
    ("engine", "shown", "problem"),
    [
        ({}, "no alert fires", "No problem found"),
        ({"alerts": False, "interval_seconds": None}, "alerts are off", "No problem found"),
        ({"last_evaluation_at": None}, "alerts are not evaluated", "rules are not evaluated"),
    ],
)
def test_missing_alerts_are_explained(
    chromium: Browser, gateway: Gateway, engine: dict[str, Any], shown: str, problem: str
) -> None:
    """Without evaluations the page does not say that no alert fires."""
    gateway.show(busy)
    gateway.scene.state["engine"].update(engine)
    with open_page(chromium, gateway.url, TOKEN) as live:
        expect(live.page.locator("#firing")).to_have_text(shown)
        expect(live.page.locator("#problems")).to_contain_text(problem)
        late = "last evaluated" if engine.get("alerts", True) and engine else "No alert fires."
        expect(live.page.locator("#t-alerts .note")).to_contain_text(late)


def test_more_alerts_than_the_page_lists_are_mentioned(chromium: Browser, gateway: Gateway) -> None:
    """If there are more alerts than the page lists, it says so."""
    gateway.show(incident)
    finding = gateway.rule.findings[0]
    gateway.rule.findings = [
        replace(finding, subject=Subject("apikey", f"c{number}")) for number in range(201)
    ]
    gateway.evaluate()
    with open_page(chromium, gateway.url, TOKEN) as live:
        note = live.page.locator("#t-alerts .note")
        expect(note).to_have_text("Only the newest 200 alerts are listed.")


def test_limited_requests_of_one_process_are_marked(chromium: Browser, gateway: Gateway) -> None:
    """Of several processes, the limited requests are those of the one that answered."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN) as live:
        note = live.page.locator("#t-rejections .note")
        expect(note).to_have_text("Only those of the process that answered.")
        gateway.scene.state["scope"]["processes"] = 1
        gateway.changed()
        live.page.get_by_role("button", name="Refresh").click()
        expect(note).to_be_empty()


def test_page_at_320_pixels_needs_no_horizontal_scrolling(
    chromium: Browser, gateway: Gateway
) -> None:
    """At a width of 320 pixels, rows are cards, and nothing is wider than the window."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN, width=320) as live:
        assert live.page.evaluate("document.documentElement.scrollWidth") <= 320
        assert live.row("prod-2").evaluate("row => getComputedStyle(row).display") == "block"


def test_hostile_names_are_text(chromium: Browser, gateway: Gateway) -> None:
    """A name is text without control characters, isolated from its neighbours and bounded."""
    gateway.show(hostile)
    with open_page(chromium, gateway.url, TOKEN) as live:
        page = live.page
        for summary in page.locator("summary").all():
            summary.click()
        settle(page)
        live.row("prod").locator("bdi").first.wait_for()

        assert page.locator("img, script:not([src])").count() == 0
        assert page.title().startswith("(")
        assert page.locator("a[href^=javascript]").count() == 0
        text = page.locator("body").inner_text()
        assert HOSTILE[0] in text
        assert HOSTILE[4] in text
        assert not any(character in text for character in "\u202e\u202d\x00\x07")
        assert "x" * 300 not in text
        whole = page.locator("#t-credentials bdi[title^=xxx]").first.get_attribute("title")
        assert whole == "x" * 9_999
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        live.section("Alerts").get_by_role("button", name="onerror").first.click()
        expect(page.locator("#dialog")).to_be_visible()
        assert page.locator("#dialog a").count() == 0


def test_header_names_the_cause_of_an_incident(chromium: Browser, gateway: Gateway) -> None:
    """The first line names a rejected credential and a flooding tenant, and links to them."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        problems = live.page.locator("#problems a")
        expect(problems).to_have_text(
            [
                "■ claude \u2013 credential prod-2 rejected 14 times in a row",
                "▲ tenant acme \u2013 93 % of limited requests",
                "▲ 2 requests in flight have stalled",
            ]
        )
        assert [link.get_attribute("href") for link in problems.all()] == [
            "#providers",
            "#limits",
            "#inflight",
        ]
        assert live.page.title() == "(3) gateway \u2013 critical"
        assert live.page.locator("#icon").get_attribute("href") == "alert.svg"
        expect(live.section("Alerts").locator("tbody tr").first).to_contain_text("critical")


def test_single_rejection_of_a_credential_is_a_warning(chromium: Browser, gateway: Gateway) -> None:
    """A credential that was rejected once is a warning, and one after three is critical."""
    gateway.show(busy)
    credentials = gateway.scene.state["providers"][0]["credentials"]
    for credential, count in zip(credentials, (1, 3), strict=False):
        credential.update(rejected=count, consecutive_failures=count)
    names = [credential["id"] for credential in credentials]
    with open_page(chromium, gateway.url, TOKEN) as live:
        expect(live.page.locator("#problems a")).to_have_text(
            [
                f"■ claude \u2013 credential {names[1]} rejected 3 times in a row",
                f"▲ claude \u2013 credential {names[0]} rejected once",
            ]
        )


def test_unknown_values_are_not_zero(chromium: Browser, gateway: Gateway) -> None:
    """A value that the gateway does not know is a dash, and a gap is a break of the line."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN) as live:
        cells = live.section("Providers").locator("tr").filter(has_text="mistral").locator("td")
        assert cells.nth(1).inner_text() == "\u2013"
        path = live.page.locator("#charts path.s0").first.get_attribute("d")
        assert path is not None
        assert path.count("M") == 2


@pytest.mark.parametrize(
    ("age", "processes", "minutes"),
    [(600, 1, 15), (1_200, 1, 30), (5_000, 1, 60), (600, 3, 60)],
)
def test_range_covers_the_time_since_the_start(
    chromium: Browser, gateway: Gateway, age: int, processes: int, minutes: int
) -> None:
    """Charts have the least range since the start of the process; that of others is unknown."""
    gateway.show(busy)
    gateway.scene.state["instance"]["started_at"] = gateway.scene.ago(age)
    kind = "process" if processes == 1 else "fleet"
    gateway.scene.state["scope"] = {"kind": kind, "processes": processes, "missing": 0}
    with open_page(chromium, gateway.url, TOKEN) as live:
        expect(live.page.get_by_label("Range")).to_have_value(str(minutes * 60))


def test_chosen_range_is_kept(chromium: Browser, gateway: Gateway) -> None:
    """After the user has chosen a range, the age of the process does not change it."""
    gateway.show(busy)
    with open_page(chromium, gateway.url, TOKEN) as live:
        live.page.get_by_label("Range").select_option("30 minutes")
        gateway.changed()
        live.page.get_by_role("button", name="Refresh").click()
        settle(live.page)

        expect(live.page.get_by_label("Range")).to_have_value("1800")


def test_words_of_a_table_do_not_break(chromium: Browser, gateway: Gateway) -> None:
    """Narrow columns do not break words; only a long name breaks."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN, width=700) as live:
        state = live.row("Rate limit reached").locator("td", has_text="firing").locator("bdi")

        assert state.evaluate("node => node.getClientRects().length") == 1
        assert state.evaluate("node => node.scrollHeight") < 30


def test_scope_of_the_numbers_is_said(chromium: Browser, gateway: Gateway) -> None:
    """The page says whose numbers it shows, and warns of processes that are not included."""
    gateway.show(busy)
    gateway.scene.state["scope"] = {"kind": "process", "processes": 1, "missing": 0}
    with open_page(chromium, gateway.url, TOKEN) as live:
        banner, refresh = (
            live.page.locator("#banner"),
            live.page.get_by_role("button", name="Refresh"),
        )
        expect(live.page.locator("#origin")).to_contain_text("of this process only.")
        expect(banner).to_be_empty()

        gateway.scene.state["instance"] = {**gateway.scene.state["instance"], "id": "other"}
        gateway.changed()
        refresh.click()
        expect(banner).to_have_text("Several processes answer: each number is of one of 2 seen.")

        gateway.scene.state["scope"] = {"kind": "fleet", "processes": 3, "missing": 1}
        gateway.changed()
        refresh.click()
        expect(banner).to_have_text(
            "Processes that do not report: 1. The numbers are without them."
        )


def test_page_without_script_explains_itself(chromium: Browser, gateway: Gateway) -> None:
    """Without JavaScript, the page shows how to read the data, and nothing else."""
    with open_page(chromium, gateway.url, java_script_enabled=False) as live:
        expect(live.page.locator("noscript pre")).to_be_visible()
        expect(live.page.locator("main")).to_be_hidden()


def test_page_below_a_root_path_works(chromium: Browser) -> None:
    """Behind a proxy that adds a path, all links and requests stay below it."""
    gateway = Gateway("/gw")
    gateway.start()
    try:
        gateway.show(incident)
        with open_page(chromium, gateway.url, TOKEN) as live:
            urls = live.page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
            assert all("/gw/admin/" in url for url in urls)
            expect(live.section("Alerts").locator("tbody tr")).to_have_count(3)
    finally:
        gateway.stop()

"""The live page and the endpoints of a real gateway, in Chromium."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tokenpulse_mw import Person, Thresholds
from tokenpulse_mw.logs import log_level, set_log_level
from tokenpulse_mw.web.auth import Right

from ...support.servers import Server
from ...support.waiting import wait_until
from .driver import LivePage, open_page, settle
from .real_gateway import TOKEN, Proxy, RealGateway, new_clock

pytestmark = pytest.mark.slow

ACME: dict[str, Any] = {"tenant": "t-1", "tenant_name": "Acme Corp"}
GLOBEX: dict[str, Any] = {"tenant": "t-2", "tenant_name": "Globex"}
OPENAI: dict[str, Any] = {
    "provider": "openai",
    "credential": "c1",
    "credential_group": "openai-prod",
}
CLAUDE: dict[str, Any] = {
    "provider": "claude",
    "credential": "c9",
    "credential_group": "claude-prod",
}
# Names, and the part of each that every table shows.
HOSTILE = {
    "markup": ('<img src=x onerror="document.title=1">', "<img src=x"),
    "direction": ("\u202egnp.exe\u2066", "gnp.exe"),
    "NUL": ("a\0b\x1b[31m", "[31m"),
    "long": ("n" * 10_000, "n" * 20),
}


@pytest.fixture
def gateway() -> Iterator[RealGateway]:
    """Yield a gateway with two tenants, of which one is limited, and a rejected credential."""
    with RealGateway() as gateway:
        cause_incident(gateway)
        yield gateway


def cause_incident(gateway: RealGateway) -> None:
    """Send requests of two tenants, of which one is limited, and a rejected credential."""
    assert gateway.chat(3, **ACME, **OPENAI) == [200] * 3
    assert gateway.chat(12, **GLOBEX, **OPENAI) == [200] * 10 + [429] * 2
    assert gateway.chat(6, status=401, **ACME, **CLAUDE) == [401] * 6
    gateway.sample()
    gateway.evaluate()


def refresh(live: LivePage) -> None:
    """Load all sections again."""
    live.page.get_by_role("button", name="Refresh").click()
    settle(live.page)


def rows(live: LivePage, table: str, text: str) -> Locator:
    """Return the rows of a table that have a text."""
    return live.page.locator(f"#t-{table} tbody tr").filter(has_text=text)


def submit(page: Page, button: str) -> None:
    """Submit the dialog, and wait until it is closed."""
    page.locator("#dialog").get_by_role("button", name=button, exact=True).click()
    expect(page.locator("#dialog")).to_be_hidden()
    settle(page)


def cell(row: Locator, column: str) -> Locator:
    """Return the cell of a row in a column."""
    return row.locator(f'td[data-label="{column}"]')


def test_incident_is_shown(chromium: Browser, gateway: RealGateway) -> None:
    """Problems, tenants, providers, credentials, limits and alerts have what was sent."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        page = live.page
        problems = page.locator("#problems")
        expect(problems).to_contain_text(
            "claude \N{EN DASH} credential c9 rejected 6 times in a row"
        )
        alert = rows(live, "alerts", "Provider API key rejected (6 times in a row)")
        expect(alert).to_contain_text("critical")
        expect(alert).to_contain_text("claude-prod")
        credential = rows(live, "credentials", "c9")
        expect(credential).to_contain_text("claude-prod")
        expect(credential).to_contain_text("rejected")
        expect(cell(credential, "Failures in a row")).to_have_text("6")
        expect(rows(live, "credentials", "c1")).to_contain_text("ok")
        expect(cell(rows(live, "providers", "openai"), "429 of us/min")).to_have_text("4")
        acme, globex = rows(live, "tenants", "Acme Corp"), rows(live, "tenants", "Globex")
        expect(cell(acme, "Metered requests")).to_have_text("3")
        expect(cell(globex, "Metered requests")).to_have_text("10")
        expect(cell(globex, "Input tokens")).to_have_text("50")
        expect(cell(globex, "Cost")).to_have_text("0.0002 $")
        expect(rows(live, "keys", "Globex (t-2)")).to_contain_text("100 %")
        expect(rows(live, "keys", "Acme Corp")).to_contain_text("90 %")
        expect(cell(rows(live, "rejections", "Globex"), "Times")).to_have_text("2")
        expect(rows(live, "routes", "/v1/chat/completions")).to_be_visible()
        expect(page.locator("#origin")).to_contain_text("of this process only.")
        expect(page.locator("#origin")).to_contain_text("Store: memory.")


def test_alert_is_acknowledged_and_silenced(chromium: Browser, gateway: RealGateway) -> None:
    """The engine has the acknowledgement and the silence, and the page shows them."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        page, alert = live.page, rows(live, "alerts", "Provider API key rejected")
        alert.get_by_role("button", name="Ack").click()
        page.get_by_label("Note").fill("key is renewed")
        submit(page, "Acknowledge")
        expect(alert).to_contain_text("acknowledged")
        alert.get_by_role("button", name="Silence").click()
        submit(page, "Silence")
        gateway.evaluate()
        refresh(live)
        expect(alert).to_contain_text("silenced")
        expect(rows(live, "silences", "credential_rejected")).to_have_count(1)
        with gateway.client(authorization=f"Bearer {TOKEN}") as client:
            alerts = client.get("/admin/alerts?type=credential_rejected").json()["alerts"]

    assert [alert["ack"]["note"] for alert in alerts] == ["key is renewed"]
    (silence,) = gateway.engine.controls.silences
    assert {matcher.value for matcher in silence.matchers} >= {"credential_rejected", "c9"}


def test_key_is_blocked_unblocked_and_reset(chromium: Browser, gateway: RealGateway) -> None:
    """A blocked client gets 429 at once, and its requests are counted from 0 after a reset."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        page = live.page
        acme, globex = rows(live, "keys", "Acme Corp"), rows(live, "keys", "Globex")
        assert gateway.chat(**ACME, **OPENAI) == [200]
        acme.get_by_role("button", name="Block").click()
        page.get_by_label("Reason").fill("floods")
        submit(page, "Block")
        expect(acme.get_by_role("button", name="Unblock")).to_be_visible()
        assert gateway.chat(**ACME, **OPENAI) == [429]

        acme.get_by_role("button", name="Unblock").click()
        submit(page, "Unblock")
        expect(acme.get_by_role("button", name="Block", exact=True)).to_be_visible()
        assert gateway.chat(**GLOBEX, **OPENAI) == [429]
        globex.get_by_role("button", name="Reset").click()
        submit(page, "Reset")
        assert gateway.chat(**GLOBEX, **OPENAI) == [200]

        page.locator("#done summary").click()
        actions = page.locator("#t-actions tbody tr")
        expect(actions).to_have_count(3)
        expect(actions.nth(2)).to_contain_text("floods")


def test_key_is_looked_up(chromium: Browser, gateway: RealGateway) -> None:
    """A key is found by the id and by the name of its tenant, even if it is little used."""
    gateway.chat(tenant="t-7", tenant_name="Initech", **OPENAI)
    gateway.evaluate()
    with open_page(chromium, gateway.url, TOKEN) as live:
        expect(rows(live, "keys", "Initech")).to_have_count(0)
        for text in ("t-7", "Initech"):
            live.page.get_by_label("Look up a key").fill(text)
            live.page.get_by_role("button", name="Look up").click()
            expect(live.page.locator("#t-keys tbody tr")).to_have_count(1)
            expect(rows(live, "keys", "Initech (t-7)")).to_contain_text("10 %")


def test_threshold_is_changed_after_a_dry_run(chromium: Browser, gateway: RealGateway) -> None:
    """The dry run finds the alerts of the real traffic; the saved value is that of the engine."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        page = live.page
        field = page.get_by_label("credential rejections", exact=True)
        expect(field).to_have_value("5")
        field.fill("6")
        page.get_by_role("button", name="Dry run").click()
        outcome = page.locator("#outcome")
        expect(outcome.locator("h3")).to_have_text(
            [
                *("Would newly fire: 0", "Would keep firing: 1", "Would be resolved: 0"),
                "Would be resolved with the current values too: 1",
            ]
        )
        expect(outcome.locator("li").first).to_contain_text("claude-prod")
        field.fill("")
        page.get_by_role("button", name="Dry run").click()
        expect(outcome).to_contain_text("Would be resolved: 1")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#outcome")).to_contain_text("Saved as version 1")
        settle(page)

        assert gateway.engine.thresholds.credential_rejections is None
        page.locator("#versions summary").click()
        expect(page.locator("#t-versions tbody tr")).to_have_count(1)


def test_concurrent_change_is_shown(chromium: Browser, gateway: RealGateway) -> None:
    """After 412 both values are shown, and the form keeps its own."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        page = live.page
        field = page.get_by_label("credential rejections", exact=True)
        field.fill("7")
        page.get_by_role("button", name="Dry run").click()
        expect(page.get_by_role("button", name="Save")).to_be_enabled()
        with gateway.client(authorization=f"Bearer {TOKEN}") as client:
            answer = client.patch(
                "/admin/alerts/thresholds",
                json={"thresholds": {"credential_rejections": 9}},
                headers={"if-match": "*"},
            )
        assert answer.status_code == 200
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#outcome")).to_contain_text("credential_rejections: yours 7, now 9")
        expect(field).to_have_value("7")

    assert gateway.engine.thresholds == Thresholds(credential_rejections=9)


def test_log_level_is_set(chromium: Browser, gateway: RealGateway) -> None:
    """The level applies to the process at once."""
    before = log_level()
    try:
        with open_page(chromium, gateway.url, TOKEN) as live:
            expect(live.page.get_by_label("Log level")).to_have_value(before)
            live.page.get_by_label("Log level").select_option("ERROR")
            live.page.get_by_role("button", name="Set", exact=True).click()
            expect(live.page.locator("#facts")).to_contain_text("ERROR")
            assert log_level() == "ERROR"
    finally:
        set_log_level(before)


def test_test_alert_is_sent(
    chromium: Browser, gateway: RealGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink delivers a test alert."""
    with (
        caplog.at_level(logging.INFO, "tokenpulse_mw"),
        open_page(chromium, gateway.url, TOKEN) as live,
    ):
        rows(live, "sinks", "LogSink").get_by_role("button", name="Test").click()
        submit(live.page, "Send")

    assert any("test" in record.message.lower() for record in caplog.records)


def test_request_in_flight_is_shown(chromium: Browser, gateway: RealGateway) -> None:
    """A stream is listed with its tenant, and no longer when it has ended."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        with gateway.streaming(**GLOBEX | {"tenant": "t-9"}, **OPENAI):
            refresh(live)
            row = rows(live, "inflight", "Globex")
            expect(row).to_contain_text("streams")
            expect(row).to_contain_text("/v1/stream")
            expect(cell(row, "Since last byte")).not_to_have_text("\N{EN DASH}")
            expect(cell(row, "Age")).not_to_have_text("\N{EN DASH}")
        wait_until(lambda: len(gateway.pulse.in_progress) == 0)
        refresh(live)
        expect(row).to_have_count(0)


def test_wrong_tokens_are_limited_and_an_operator_is_not(
    chromium: Browser, gateway: RealGateway
) -> None:
    """After ten wrong tokens the form says when to try again; a known token still works."""
    with open_page(chromium, gateway.url, TOKEN), open_page(chromium, gateway.url) as live:
        for _ in range(10):
            live.log_in("wrong")
            expect(live.page.locator("#loginError")).to_have_text("This token is not accepted.")
            live.page.locator("#loginError").evaluate("(node) => (node.textContent = '')")
        live.log_in("wrong")
        expect(live.page.locator("#loginError")).to_contain_text("Too many attempts: try again in")

        live.log_in(TOKEN)
        settle(live.page)
        expect(live.page.locator("main")).to_be_visible()


def test_details_of_an_alert_link_to_the_runbook(chromium: Browser) -> None:
    """With a runbook, the details of an alert link to the section of its type."""
    with RealGateway(settings={"alert_runbook_url": "https://wiki.example/page"}) as gateway:
        cause_incident(gateway)
        with open_page(chromium, gateway.url, TOKEN) as live:
            rows(live, "alerts", "Provider API key rejected").locator("button.link").click()
            link = live.page.get_by_role("link", name="Runbook")
            expect(link).to_have_attribute("href", "https://wiki.example/page#credential_rejected")


def test_person_without_rights_only_reads(chromium: Browser) -> None:
    """The buttons are absent, and the server rejects what they would send."""
    with RealGateway(authorize=lambda request: Person("ada", can={"read"})) as gateway:
        cause_incident(gateway)
        with open_page(chromium, gateway.url) as live:
            settle(live.page)
            expect(rows(live, "alerts", "Provider API key rejected")).to_be_visible()
            names = re.compile(
                "^(Ack|Silence|Reset|Block|Save|Dry run|Set|Test|New silence|End|Log out)$"
            )
            assert live.page.get_by_role("button", name=names).count() == 0
            statuses = live.page.evaluate(
                """async () => {
                  const alert = (await (await fetch("alerts?state=active")).json()).alerts[0].id;
                  const key = (await (await fetch("limits/tenants/keys")).json()).keys[0].key;
                  const json = (method, body) => ({ method, body: JSON.stringify(body),
                    headers: { "content-type": "application/json" } });
                  const requests = [
                    ["alerts/" + alert + "/ack", json("POST", {})],
                    ["alerts/silences", json("POST",
                      { matchers: [{ name: "metric", value: "a" }], duration: 60 })],
                    ["limits/tenants/keys/" + key + "/block", json("PUT", { seconds: 60 })],
                    ["limits/tenants/keys/" + key + "/reset", json("POST", {})],
                    ["alerts/thresholds", json("PATCH", { thresholds: { error_rate: 1 } })],
                    ["alerts/test", json("POST", { sink: "LogSink" })],
                    ["settings", json("PUT", { log_level: "ERROR" })],
                  ];
                  const answers = [];
                  for (const request of requests) answers.push((await fetch(...request)).status);
                  return answers;
                }"""
            )
    assert statuses == [403] * 7


@pytest.mark.parametrize(
    ("right", "shown", "hidden"),
    [
        ("ack", {"Ack", "Silence", "New silence"}, {"Reset", "Block", "Dry run", "Set"}),
        ("limits", {"Reset", "Block"}, {"Ack", "Silence", "Dry run", "Set"}),
        ("thresholds", {"Dry run", "Set", "Test"}, {"Ack", "Silence", "Reset", "Block"}),
    ],
)
def test_each_right_shows_its_buttons(
    chromium: Browser, right: Right, shown: set[str], hidden: set[str]
) -> None:
    """A person has the buttons of the rights that the server grants."""
    with RealGateway(authorize=lambda request: Person("ada", can={"read", right})) as gateway:
        cause_incident(gateway)
        with open_page(chromium, gateway.url) as live:
            settle(live.page)
            for name in shown | hidden:
                button = live.page.get_by_role("button", name=name, exact=True).first
                expect(button).to_be_visible(visible=name in shown)
            if right == "thresholds":
                rows(live, "sinks", "LogSink").get_by_role("button", name="Test").click()
                submit(live.page, "Send")


def test_root_path_is_kept(chromium: Browser) -> None:
    """Behind a proxy with a prefix, every request of the page has it."""
    with RealGateway(root_path="/gw") as gateway, Proxy(gateway, prefix="/gw") as proxy:
        cause_incident(gateway)
        with open_page(chromium, proxy.url.rstrip("/"), TOKEN) as live:
            expect(live.page).to_have_url(proxy.url)
            expect(rows(live, "tenants", "Globex")).to_be_visible()
            rows(live, "keys", "Acme Corp").get_by_role("button", name="Block").click()
            submit(live.page, "Block")
            assert gateway.chat(**ACME, **OPENAI) == [429]

    assert len(proxy.paths) > 20
    assert all(path.startswith("/gw/admin") for path in proxy.paths)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_name_is_shown_as_text(chromium: Browser, kind: str) -> None:
    """A name of a tenant is neither markup, nor does it change other text, nor is it long."""
    hostile, visible = HOSTILE[kind]
    with RealGateway() as gateway:
        gateway.chat(9, tenant=hostile, tenant_name=hostile, **OPENAI)
        gateway.chat(12, tenant=f"{hostile}-2", tenant_name=f"{hostile}-2", **OPENAI)
        gateway.chat(6, status=401, provider="claude", credential=hostile, credential_group=hostile)
        gateway.sample()
        gateway.evaluate()
        with (
            gateway.streaming(tenant=hostile, tenant_name=hostile, **OPENAI),
            open_page(chromium, gateway.url, TOKEN) as live,
        ):
            main = live.page.locator("main")
            for table in ("tenants", "keys", "rejections", "inflight", "credentials", "alerts"):
                expect(rows(live, table, visible).first).to_be_visible()
            text = main.inner_text()
            assert not re.search("[\0\x1b\u202e\u2066]", text)
            assert "n" * 300 not in text
            assert live.page.locator("main img").count() == 0
            expect(live.page).to_have_title(re.compile("gateway"))
            assert live.violations() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_has_no_violation_of_accessibility(
    chromium: Browser, gateway: RealGateway, theme: str
) -> None:
    """The page of an incident conforms to WCAG 2.2 AA, with each part opened."""
    with (
        gateway.streaming(**GLOBEX | {"tenant": "t-9"}, **OPENAI),
        open_page(chromium, gateway.url, TOKEN, color_scheme=theme) as live,
    ):
        assert live.violations() == []
        for summary in live.page.locator("main summary").all():
            summary.click()
        settle(live.page)
        assert live.violations() == []
        for element in ("summary", "th button", "td button"):
            live.hide_partly(live.page.locator(f"main {element}:visible").first)
            assert live.violations() == []


def test_restarted_process_keeps_what_was_typed(chromium: Browser, tmp_path: Path) -> None:
    """While the process is away the page says so, and then it continues with the new one."""
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", "--port", "{port}"),
        "tests.dashboard.browser.real_gateway:restartable",
    ]
    server = Server(command, tmp_path, {"PYTHONPATH": str(Path.cwd())})
    server.start()
    try:
        with open_page(chromium, f"http://{server.place}/admin/", TOKEN) as live:
            page = live.page
            origin = page.locator("#origin").inner_text()
            field = page.get_by_label("error rate", exact=True)
            search = page.get_by_label("Filter alerts by text")
            search.fill("acme")
            field.fill("0.2")
            server.kill()
            page.get_by_role("button", name="Dry run").click()
            expect(page.locator("#outcome")).to_contain_text("does not answer")
            server.start()
            refresh(live)
            expect(page.locator("#origin")).not_to_have_text(origin)
            expect(field).to_have_value("0.2")
            expect(search).to_have_value("acme")

            page.get_by_role("button", name="Dry run").click()
            page.get_by_role("button", name="Save").click()
            expect(page.locator("#outcome")).to_contain_text("Saved as version 1")
            settle(page)
    finally:
        server.kill()


def test_processes_with_one_store_are_added(chromium: Browser, tmp_path: Path) -> None:
    """Whichever process answers, the page has the requests of both, and says so."""
    store = {"alert_store": f"sqlite+aiosqlite:///{tmp_path}/alerts.db"}
    clock = new_clock()
    with (
        RealGateway(settings=store, clock=clock) as first,
        RealGateway(settings=store, clock=clock) as second,
        Proxy(first, second) as proxy,
    ):
        gateways = (first, second)
        for gateway in gateways * 2:
            gateway.run(gateway.engine.fleet())
        with open_page(chromium, proxy.url, TOKEN) as live:
            for count in (0, 1):
                for gateway in gateways:
                    gateway.chat(4 * count, **GLOBEX, **OPENAI)
                first.chat(count, tenant="t-7", tenant_name="Initech", **OPENAI)
                second.chat(count, tenant="t-8", tenant_name="Umbrella", **OPENAI)
                clock.advance(15)
                for gateway in gateways:
                    gateway.run(gateway.board.sampler.sample())
                    gateway.run(gateway.board._fleet.publish())
            clock.advance(5)
            for gateway in gateways * 2:
                gateway.run(gateway.engine.fleet())
                gateway.evaluate()
            origins = set()
            for turn in range(4):
                if turn == 2:
                    proxy.skip()
                refresh(live)
                origin = live.page.locator("#origin")
                expect(origin).to_contain_text("of all 2 processes that share the store.")
                expect(origin).to_contain_text("Store: ok.")
                row = rows(live, "providers", "openai")
                expect(cell(row, "Requests/min")).to_have_text("20")
                for name in ("Initech", "Umbrella"):
                    expect(cell(rows(live, "tenants", name), "Metered requests")).to_have_text("1")
                expect(cell(rows(live, "tenants", "Globex"), "Metered requests")).to_have_text("8")
                expect(live.page.locator("#t-members tbody tr")).to_have_count(2)
                expect(live.page.locator("#banner")).to_have_text("")
                origins.add(origin.inner_text())
        assert len(origins) > 1


def test_processes_without_a_store_are_told_apart(chromium: Browser) -> None:
    """If each answer is of another process, the page says that its numbers are of one of them."""
    with (
        RealGateway() as first,
        RealGateway() as second,
        Proxy(first, second) as proxy,
        open_page(chromium, proxy.url, TOKEN) as live,
    ):
        for turn in range(4):
            if turn == 2:
                proxy.skip()
            refresh(live)
        expect(live.page.locator("#origin")).to_contain_text("of this process only.")
        expect(live.page.locator("#banner")).to_contain_text("each number is of one of 2 seen")

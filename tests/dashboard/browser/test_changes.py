"""Changes from the live page: nothing that was typed is lost."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Browser, Page, expect

from tokenpulse_mw.alerts import Subject, Thresholds

from .driver import open_page, settle
from .gateway import TOKEN, Gateway
from .scenes import alert, incident

pytestmark = pytest.mark.slow


def submit(page: Page, name: str) -> None:
    """Click the main button of the open dialog."""
    page.locator("#dialog").get_by_role("button", name=name, exact=True).click()


def test_acknowledgement_has_its_note(chromium: Browser, gateway: Gateway) -> None:
    """An alert is acknowledged with a note, and unacknowledged."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        row = live.row("Credential is failing")
        row.get_by_role("button", name="Ack").click()
        live.page.get_by_label("Note").fill("rotating the key")
        submit(live.page, "Acknowledge")
        expect(row).to_contain_text("acknowledged by unknown")
        (record, *_) = gateway.run(gateway.engine.store.alerts(severity="critical")).items
        assert record.ack is not None
        assert record.ack.note == "rotating the key"

        row.get_by_role("button", name="Unack").click()
        expect(row).not_to_contain_text("acknowledged")


def test_details_after_a_change_show_the_new_values(chromium: Browser, gateway: Gateway) -> None:
    """A row that is updated in place opens the details of its present alert."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        row = live.row("Credential is failing")
        row.get_by_role("button", name="Ack").click()
        live.page.get_by_label("Note").fill("rotating the key")
        submit(live.page, "Acknowledge")
        expect(row).to_contain_text("acknowledged by unknown")

        row.get_by_role("button", name="Credential").click()
        dialog = live.page.locator("#dialog")
        expect(dialog).to_contain_text("firing, acknowledged by unknown")
        expect(dialog).to_contain_text("rotating the key")


def test_silence_is_filled_in_from_the_alert(chromium: Browser, gateway: Gateway) -> None:
    """The silence of an alert matches it, is listed, and can be ended."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        row = live.row("Rate limit reached")
        row.get_by_role("button", name="Silence").click()
        expect(live.page.get_by_label("alertname")).to_have_value("rate_limit")
        expect(live.page.get_by_label("subject_id")).to_have_value("t0")
        live.page.get_by_label("For").select_option("4 hours")
        live.page.get_by_label("Comment").fill("known")
        submit(live.page, "Silence")
        expect(row).to_contain_text("silenced")
        (silence,) = gateway.engine.controls.silences
        assert (silence.ends_at - silence.starts_at, silence.comment) == (14_400, "known")

        listed = live.section("Operations").locator("#t-silences tbody tr")
        expect(listed).to_contain_text("alertname = rate_limit, subject_kind = master")
        listed.get_by_role("button", name="End").click()
        submit(live.page, "End")
        expect(row).not_to_contain_text("silenced")


def test_silence_until_a_time_may_use_a_regular_expression(
    chromium: Browser, gateway: Gateway
) -> None:
    """A silence ends at a chosen time, and a value that begins with ~ is a regular expression."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        live.page.get_by_role("button", name="New silence").click()
        live.page.get_by_label("provider", exact=True).fill("~claude|openai")
        live.page.get_by_label("For").select_option("until")
        submit(live.page, "Silence")
        expect(live.page.locator("#dialogError")).to_contain_text("must be in the future")
        expect(live.page.get_by_label("provider", exact=True)).to_have_value("~claude|openai")

        live.page.get_by_label("End", exact=True).fill("2100-01-01T08:00")
        submit(live.page, "Silence")
        expect(live.page.locator("#dialog")).to_be_hidden()
        (silence,) = gateway.engine.controls.silences
        (matcher,) = silence.matchers
        assert (matcher.value, matcher.is_regex) == ("claude|openai", True)
        assert datetime.fromtimestamp(silence.ends_at, UTC).year in (2099, 2100)


def test_details_of_an_alert_have_its_transitions(chromium: Browser, gateway: Gateway) -> None:
    """The details have the metadata, the transitions, and the runbook that a rule names."""
    gateway.show(incident)
    (failing, *_) = gateway.rule.findings
    runbook = {"runbook_url": "https://wiki.example/runbook"}
    gateway.rule.findings = [replace(failing, metadata={**failing.metadata, **runbook})]
    gateway.evaluate()
    with open_page(chromium, gateway.url, TOKEN) as live:
        live.row("Credential is failing").get_by_role("button", name="Credential").click()
        dialog = live.page.locator("#dialog")
        expect(dialog.locator("ol")).to_contain_text("fired")
        expect(dialog).to_contain_text("status")
        link = dialog.get_by_role("link", name="Runbook")
        expect(link).to_have_attribute("href", "https://wiki.example/runbook")


def test_login_in_a_dialog_keeps_what_was_typed(chromium: Browser, gateway: Gateway) -> None:
    """After 401 the login form is above the dialog, and then the same input can be sent."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        row = live.row("Credential is failing")
        row.get_by_role("button", name="Ack").click()
        live.page.get_by_label("Note").fill("mine")
        gateway.token = "new"
        submit(live.page, "Acknowledge")
        expect(live.page.get_by_label("Token", exact=True)).to_be_visible()

        live.log_in("new")
        expect(live.page.get_by_label("Token", exact=True)).to_be_hidden()
        expect(live.page.get_by_label("Note")).to_have_value("mine")
        expect(live.page.locator("#dialogError")).to_contain_text("Nothing was changed")
        submit(live.page, "Acknowledge")
        expect(row).to_contain_text("acknowledged")


def test_keys_are_reset_and_blocked(chromium: Browser, gateway: Gateway) -> None:
    """A key is reset or blocked after a question; the reason and the time are sent."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        page = live.page
        row = page.locator("#t-keys tbody tr").filter(has_text="acme").first
        row.get_by_role("button", name="Reset").click()
        assert gateway.changes == []
        page.get_by_label("Reason").fill("deployment")
        submit(page, "Reset")
        expect(page.locator("#dialog")).to_be_hidden()
        gateway.scene.keys["requests"][0]["blocked_until"] = gateway.scene.ago(-600)
        row.get_by_role("button", name="Block").click()
        page.get_by_label("For").select_option("24 hours")
        submit(page, "Block")
        row.get_by_role("button", name="Unblock").click()
        submit(page, "Unblock")
        expect(page.locator("#dialog")).to_be_hidden()

        assert gateway.changes == [
            ("POST", "limits/requests/keys/k_5e1f/reset", {"reason": "deployment"}),
            ("PUT", "limits/requests/keys/k_5e1f/block", {"seconds": 86_400, "reason": ""}),
            ("DELETE", "limits/requests/keys/k_5e1f/block", None),
        ]


def test_key_is_looked_up(chromium: Browser, gateway: Gateway) -> None:
    """A key that is not near its limit is found by its name."""
    gateway.show(incident)
    gateway.scene.keys["requests"][1]["used"] = 3
    with open_page(chromium, gateway.url, TOKEN) as live:
        rows = live.page.locator("#t-keys tbody tr")
        expect(rows.filter(has_text="globex")).to_have_count(0)
        live.page.get_by_label("Look up a key").fill("globex")
        live.page.get_by_role("button", name="Look up").click()
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("globex")

        live.page.get_by_role("button", name="Show keys near their limit").click()
        expect(rows.filter(has_text="acme")).to_have_count(1)


def test_missing_rights_hide_buttons(chromium: Browser, gateway: Gateway) -> None:
    """A user who may only read has no button that changes anything."""
    gateway.show(incident)
    gateway.scene.state["me"]["can"] = ["read"]
    with open_page(chromium, gateway.url, TOKEN) as live:
        names = re.compile("^(Ack|Silence|Reset|Block|Save|Dry run|Set|Test|New silence|End)$")
        expect(live.row("Credential is failing")).to_be_visible()
        assert live.page.get_by_role("button", name=names).count() == 0
        assert live.page.locator("#fields input:enabled").count() == 0


def test_thresholds_are_saved_after_a_dry_run(chromium: Browser, gateway: Gateway) -> None:
    """A change is tried first, which lists the alerts that would fire; then it can be saved."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        page, save = live.page, live.page.get_by_role("button", name="Save")
        field = page.get_by_label("error rate", exact=True)
        expect(page.locator("#about-error_rate")).to_have_text(
            "share, above 0 to 1, default 0.1, empty: off"
        )
        expect(save).to_be_disabled()
        field.fill("0.2")
        page.get_by_label("tenant rpm", exact=True).fill("600")
        expect(save).to_be_disabled()
        page.get_by_role("button", name="Dry run").click()
        expect(page.locator("#outcome")).to_contain_text("Would keep firing: 3")
        expect(page.locator("#outcome li")).to_have_count(3)
        save.click()
        expect(page.locator("#outcome")).to_contain_text("Saved as version 1")

        assert gateway.engine.thresholds.error_rate == 0.2
        assert gateway.engine.thresholds.master_rpm == 600
        field.fill("")
        expect(save).to_be_disabled()
        page.get_by_role("button", name="Dry run").click()
        save.click()
        expect(page.locator("#outcome")).to_contain_text("Saved as version 2")
        assert gateway.engine.thresholds.error_rate is None

        page.locator("#versions summary").click()
        first = page.locator("#t-versions tbody tr").filter(has_text=re.compile("^1"))
        first.get_by_role("button", name="Put back").click()
        expect(field).to_have_value("0.2")
        assert gateway.engine.thresholds.error_rate is None


def test_dry_run_compares_with_the_firing_alerts(chromium: Browser, gateway: Gateway) -> None:
    """The dry run lists what would newly fire, keep firing, be resolved, and end in any case."""
    gateway.show(incident)
    failing, errors, limited = gateway.rule.findings
    new = alert(
        "high_latency", Subject("provider", "openai"), "warning", "Slow", "p95 6 s", hold_for=300
    )
    gateway.rule.findings = [failing, errors]
    gateway.rule.others = [replace(failing, severity=None), new]
    with open_page(chromium, gateway.url, TOKEN) as live:
        outcome = live.page.locator("#outcome")
        live.page.get_by_label("error rate", exact=True).fill("0.2")
        live.page.get_by_role("button", name="Dry run").click()
        expect(outcome).to_contain_text("compared with the alerts that fire now")
        lists = dict(
            zip(
                outcome.locator("h3").all_inner_texts(),
                outcome.locator("ul").all_inner_texts(),
                strict=True,
            )
        )
        assert lists == {
            "Would newly fire: 1": "▲ warning Slow \u2013 p95 6 s (after 5 min)",
            "Would keep firing: 1": f"■ critical {failing.title} \u2013 {failing.message}",
            "Would be resolved: 1": f"▲ warning {errors.title} \u2013 {errors.message}",
            "Would be resolved with the current values too: 1": (
                f"▲ warning {limited.title} \u2013 {limited.message}"
            ),
        }


def test_dry_run_of_a_failed_rule_keeps_its_alerts(chromium: Browser, gateway: Gateway) -> None:
    """The alerts of a rule that fails stay as they are, and the failure is listed."""
    gateway.show(incident)
    gateway.rule.others = RuntimeError("no database")
    with open_page(chromium, gateway.url, TOKEN) as live:
        live.page.get_by_label("error rate", exact=True).fill("0.2")
        live.page.get_by_role("button", name="Dry run").click()
        outcome = live.page.locator("#outcome")
        expect(outcome.locator("h3")).to_have_text(
            [
                *("Would newly fire: 0", "Would keep firing: 3", "Would be resolved: 0"),
                "Not evaluated: 1",
            ]
        )
        expect(outcome).to_contain_text("rule chosen failed: RuntimeError: no database")


def test_invalid_threshold_is_marked(chromium: Browser, gateway: Gateway) -> None:
    """The error of the gateway is beside the field, whose value is kept."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        field = live.page.get_by_label("error rate", exact=True)
        field.fill("20")
        live.page.get_by_role("button", name="Dry run").click()
        expect(live.page.locator("#about-error_rate")).to_contain_text("at most 1")
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_value("20")
        expect(live.page.get_by_role("button", name="Save")).to_be_disabled()

        live.page.get_by_role("button", name="Discard").click()
        expect(field).to_have_value("0.1")
        expect(field).to_have_attribute("aria-invalid", "false")


def test_changed_thresholds_show_both_values(chromium: Browser, gateway: Gateway) -> None:
    """After 412 both values are shown, the form keeps its own, and a dry run comes first."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        page, save = live.page, live.page.get_by_role("button", name="Save")
        field = page.get_by_label("error rate", exact=True)
        field.fill("0.2")
        page.get_by_role("button", name="Dry run").click()
        expect(save).to_be_enabled()
        other = Thresholds(error_rate=0.3, master_rpm=50)
        gateway.run(gateway.engine.controls.set_thresholds(other, by="grace", expected=...))
        save.click()
        expect(page.locator("#outcome")).to_contain_text("error_rate: yours 0.2, now 0.3")
        expect(field).to_have_value("0.2")
        expect(page.get_by_label("tenant rpm", exact=True)).to_have_value("50")
        expect(save).to_be_disabled()

        page.get_by_role("button", name="Dry run").click()
        save.click()
        expect(page.locator("#outcome")).to_contain_text("Saved as version 2")
        assert gateway.engine.thresholds == Thresholds(error_rate=0.2, master_rpm=50)


def test_lost_connection_and_restart_keep_the_form(chromium: Browser, gateway: Gateway) -> None:
    """While the gateway is away, and after its restart, the form has what was typed."""
    with open_page(chromium, gateway.url, TOKEN) as live:
        page = live.page
        field = page.get_by_label("error rate", exact=True)
        field.fill("0.2")
        gateway.stop()
        page.get_by_role("button", name="Dry run").click()
        expect(page.locator("#outcome")).to_contain_text("does not answer")
        gateway.start()
        gateway.restart()
        page.get_by_role("button", name="Refresh").click()
        settle(page)
        expect(page.locator("#origin")).to_contain_text("process 990")
        expect(field).to_have_value("0.2")

        page.get_by_role("button", name="Dry run").click()
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#outcome")).to_contain_text("Saved as version 1")


def test_operations_change_the_log_level_and_test_a_sink(
    chromium: Browser, gateway: Gateway
) -> None:
    """The log level is set, and a failed test alert is reported."""
    gateway.show(incident)
    with open_page(chromium, gateway.url, TOKEN) as live:
        page = live.page
        expect(page.get_by_label("Log level")).to_have_value("INFO")
        page.get_by_label("Log level").select_option("DEBUG")
        page.get_by_role("button", name="Set", exact=True).click()
        live.row("SlackSink").get_by_role("button", name="Test").click()
        submit(page, "Send")
        expect(page.locator("#dialogError")).to_contain_text("sink must be one of")

        assert "PUT settings" in gateway.log

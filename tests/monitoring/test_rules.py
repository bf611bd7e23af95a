"""The rules before Prometheus's own inspector, and what every alert has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..support.servers import need
from .files import alerts, read

pytestmark = pytest.mark.slow

TESTS = "tokenpulse.tests.yml"


@pytest.fixture
def folder(written: Path) -> Path:
    """Where the rules and their tests are."""
    return written / "prometheus" / "rules"


def promtool(folder: Path, *arguments: str) -> str:
    """What it has to say; it must not complain."""
    need("promtool", "prometheus")
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def cases(tested: list[dict[str, Any]], alert: str) -> list[dict[str, Any]]:
    """Return what the tests of the rules expect of an alert, in the order of time."""
    return [case for case in tested if case["alertname"] == alert]


def test_prometheus_takes_its_settings(written: Path) -> None:
    """And finds the rules that they name."""
    said = promtool(written / "prometheus", "check", "config", "prometheus.yml")

    assert "1 rule files found" in said


def test_prometheus_takes_the_rules(folder: Path) -> None:
    """Without a warning."""
    assert "SUCCESS" in promtool(folder, "check", "rules", "tokenpulse.rules.yml")


def test_the_rules_do_what_their_tests_say(folder: Path) -> None:
    """Each alert fires when it should, stays quiet when it should, and ends."""
    assert "SUCCESS" in promtool(folder, "test", "rules", TESTS)


@pytest.mark.parametrize("always", ["vector(1) > 2", "vector(1)"], ids=["never", "always"])
def test_the_tests_would_fail(written: Path, tmp_path: Path, folder: Path, always: str) -> None:
    """Their success means something: they find every alert that never fires, or for everyone."""
    spoilt = [rule | {"expr": always, "for": "0m"} for rule in alerts(written)]
    groups = [{"name": "tokenpulse-requests", "rules": spoilt}]
    (tmp_path / "tokenpulse.rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    (tmp_path / TESTS).write_text((folder / TESTS).read_text())

    with pytest.raises(AssertionError) as failed:
        promtool(tmp_path, "test", "rules", TESTS)

    found = set(re.findall(r"alertname: (\w+)", str(failed.value)))
    assert found == {rule["alert"] for rule in spoilt}


def test_every_alert_is_tested(written: Path, folder: Path) -> None:
    """That it does not fire yet or for others, then that it fires, and then that it has ended."""
    tested = [case for test in read(folder / TESTS)["tests"] for case in test["alert_rule_test"]]

    for rule in alerts(written):
        fires = [bool(case["exp_alerts"]) for case in cases(tested, rule["alert"])]
        assert fires[:3] == [False, True, False], rule["alert"]


def test_every_alert_is_complete(written: Path) -> None:
    """How long it must last, how long it goes on, how bad it is, and what to do."""
    for rule in alerts(written):
        assert set(rule) == {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
        assert set(rule["labels"]) == {"service", "severity"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]


def test_every_alert_leads_to_its_place_in_the_documentation(written: Path) -> None:
    """The page beside the files has a heading and a row for each, and for no other."""
    page = (written / "monitoring.md").read_text()
    headings = {line[4:] for line in page.splitlines() if line.startswith("### ")}
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| [`")}

    assert headings == rows == {rule["alert"] for rule in alerts(written)}
    for rule in alerts(written):
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook"] == f"monitoring.md#{anchor}"
        assert f"](#{anchor})" in page

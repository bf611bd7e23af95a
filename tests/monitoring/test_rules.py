"""Prometheus rules, checked by promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..support.servers import need
from .files import alerts, log_alerts, read

pytestmark = pytest.mark.slow

TESTS = "tokenpulse.tests.yml"


@pytest.fixture
def folder(written: Path) -> Path:
    """Return the folder of the rules and their tests."""
    return written / "prometheus" / "rules"


def promtool(folder: Path, *arguments: str) -> str:
    """Return the output of promtool, which must succeed."""
    need("promtool", "prometheus")
    result = subprocess.run(
        ["promtool", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def cases(tested: list[dict[str, Any]], alert: str) -> list[dict[str, Any]]:
    """Return the cases of an alert, in the order of their time."""
    return [case for case in tested if case["alertname"] == alert]


def test_promtool_accepts_the_configuration(written: Path) -> None:
    """The rule file of the configuration is found."""
    output = promtool(written / "prometheus", "check", "config", "prometheus.yml")

    assert "1 rule files found" in output


def test_promtool_accepts_the_rules(folder: Path) -> None:
    """The check gives no warning."""
    assert "SUCCESS" in promtool(folder, "check", "rules", "tokenpulse.rules.yml")


def test_promtool_cases_of_the_rules_pass(folder: Path) -> None:
    """Each alert fires, stays inactive and ends as expected."""
    assert "SUCCESS" in promtool(folder, "test", "rules", TESTS)


@pytest.mark.parametrize("expression", ["vector(1) > 2", "vector(1)"], ids=["never", "always"])
def test_promtool_cases_detect_broken_rules(
    written: Path, tmp_path: Path, folder: Path, expression: str
) -> None:
    """The cases fail for alerts that never fire or always fire."""
    broken = [rule | {"expr": expression, "for": "0m"} for rule in alerts(written)]
    groups = [{"name": "tokenpulse-requests", "rules": broken}]
    (tmp_path / "tokenpulse.rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    (tmp_path / TESTS).write_text((folder / TESTS).read_text())

    with pytest.raises(AssertionError) as error:
        promtool(tmp_path, "test", "rules", TESTS)

    failed = set(re.findall(r"alertname: (\w+)", str(error.value)))
    assert failed == {rule["alert"] for rule in broken}


def test_every_alert_has_promtool_cases(written: Path, folder: Path) -> None:
    """The cases cover inactive, firing and resolved."""
    tested = [case for test in read(folder / TESTS)["tests"] for case in test["alert_rule_test"]]

    for rule in alerts(written):
        fires = [bool(case["exp_alerts"]) for case in cases(tested, rule["alert"])]
        assert fires[:3] == [False, True, False], rule["alert"]


def test_every_alert_has_durations_labels_and_annotations(written: Path) -> None:
    """Severity, summary, description and runbook are required."""
    for rule in alerts(written):
        assert set(rule) == {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
        assert set(rule["labels"]) == {"service", "severity"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]


def test_every_alert_has_a_runbook_section(written: Path) -> None:
    """The page has a heading and a table row for each alert, and no others."""
    page = (written / "monitoring.md").read_text()
    headings = {line[4:] for line in page.splitlines() if line.startswith("### ")}
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| [`")}

    names = {rule["alert"] for rule in alerts(written)} | log_alerts(written).keys()
    assert headings == rows == names
    for rule in alerts(written):
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook"] == f"monitoring.md#{anchor}"
        assert f"](#{anchor})" in page

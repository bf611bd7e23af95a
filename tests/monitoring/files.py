"""Reads the written files and the documentation pages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parents[2] / "docs"
LOG_RULES = "loki/rules/fake/tokenpulse.rules.yml"


def read(path: Path) -> Any:
    """Return the content of a YAML or JSON file."""
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def rules(directory: Path) -> list[dict[str, Any]]:
    """Return all recording and alerting rules."""
    groups = read(directory / "prometheus/rules/tokenpulse.rules.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts(directory: Path) -> list[dict[str, Any]]:
    """Return the alerting rules."""
    return [rule for rule in rules(directory) if "alert" in rule]


def log_alerts(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the alerts from the log by their names."""
    groups = read(directory / LOG_RULES)["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels(directory: Path) -> list[dict[str, Any]]:
    """Return the panels of the dashboard, without its rows."""
    dashboard = read(directory / "grafana/dashboards/tokenpulse.json")
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a language on a documentation page."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)

"""Grafana dashboard."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

from promql_parser import AggregateExpr

from tokenpulse_mw.metrics.families import CALLBACK_FAMILIES

from .files import panels, read
from .live import live_samples
from .promql import nodes, parse, selectors

DASHBOARD = "grafana/dashboards/tokenpulse.json"


def overlap(first: dict[str, int], second: dict[str, int]) -> bool:
    """Return True if two grid positions overlap."""
    return (
        first["x"] < second["x"] + second["w"]
        and second["x"] < first["x"] + first["w"]
        and first["y"] < second["y"] + second["h"]
        and second["y"] < first["y"] + first["h"]
    )


def test_panels_have_unique_ids_and_do_not_overlap(written: Path) -> None:
    """All panels are within the grid."""
    dashboard = read(written / DASHBOARD)["panels"]
    positions: list[dict[str, int]] = [panel["gridPos"] for panel in dashboard]

    assert len({panel["id"] for panel in dashboard}) == len(dashboard)
    assert not [pair for pair in combinations(positions, 2) if overlap(*pair)]
    assert all(position["x"] + position["w"] <= 24 for position in positions)


def test_dashboard_has_a_data_source_variable(written: Path) -> None:
    """The user selects the data source at the import."""
    text = (written / DASHBOARD).read_text()

    assert set(re.findall(r'"uid": "([^"]+)"', text)) == {"tokenpulse", "${datasource}"}
    names = [variable["name"] for variable in read(written / DASHBOARD)["templating"]["list"]]
    assert names == ["datasource", "provider"]


def test_rates_use_the_rate_interval(written: Path) -> None:
    """A fixed window misses samples or is empty at other zoom levels."""
    for panel in panels(written):
        for target in panel["targets"]:
            windows = set(re.findall(r"\[([^\]]+)\]", target["expr"]))
            assert windows <= {"$__rate_interval"}, panel["title"]


def test_queries_have_unique_ids_and_legends(written: Path) -> None:
    """Each query has a reference id and a legend format."""
    for panel in panels(written):
        targets: list[dict[str, Any]] = panel["targets"]
        assert len({target["refId"] for target in targets}) == len(targets)
        assert all(target["legendFormat"] for target in targets), panel["title"]


def test_legends_use_existing_labels(written: Path) -> None:
    """A legend may only use labels that the query groups by."""
    for panel in panels(written):
        for target in panel["targets"]:
            grouped = re.search(r"by \(([^)]*)\)", target["expr"])
            labels = set(grouped[1].split(", ")) if grouped else {"instance"}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, panel["title"]


def test_dashboard_shows_every_family(written: Path) -> None:
    """Each exported family is in a panel, and not only in a rule."""
    shown = {
        re.sub("_(bucket|sum|count)$", "", str(selector.name))
        for panel in panels(written)
        for target in panel["targets"]
        for selector in selectors(parse(target["expr"]))
    }
    exported = {name for name in live_samples() if name.startswith("tokenpulse_")}

    assert {re.sub("_(bucket|sum|count)$", "", name) for name in exported} <= shown


def test_ages_and_remaining_limits_are_not_summed(written: Path) -> None:
    """A panel aggregates a gauge over instances as the gateway does over its workers."""
    operators = {"max": "max", "least": "min"}
    expected = {
        family.name: operators[family.merge]
        for family in CALLBACK_FAMILIES
        if family.merge in operators
    }
    used = {
        str(selector.name): str(node.op)
        for panel in panels(written)
        for target in panel["targets"]
        for node in nodes(parse(target["expr"]))
        if isinstance(node, AggregateExpr)
        for selector in selectors(node)
        if str(selector.name) in expected
    }

    assert len(used) >= 5
    assert used == {name: expected[name] for name in used}


def test_panels_without_an_obvious_meaning_have_a_description(written: Path) -> None:
    """Panels of faults, idle requests and limits of providers explain their values."""
    described = {
        str(selector.name)
        for panel in panels(written)
        if panel.get("description")
        for target in panel["targets"]
        for selector in selectors(parse(target["expr"]))
    }

    assert described >= {
        "tokenpulse_http_failures_total",
        "tokenpulse_http_oldest_request_seconds",
        "tokenpulse_http_longest_idle_seconds",
        "tokenpulse_upstream_remaining_ratio",
        "tokenpulse_upstream_remaining_requests",
        "tokenpulse_upstream_remaining_tokens",
    }


def test_grafana_loads_the_mounted_dashboard_folder(written: Path) -> None:
    """The provisioning path is the mount point of the Compose file."""
    grafana = read(written / "docker-compose.yml")["services"]["grafana"]
    provider = read(written / "grafana/provisioning/dashboards/tokenpulse.yml")["providers"][0]

    mounted = f"./grafana/dashboards:{provider['options']['path']}:ro"
    assert mounted in grafana["volumes"]


def test_time_interval_equals_the_scrape_interval(written: Path) -> None:
    """Grafana derives `$__rate_interval` from it."""
    sources = read(written / "grafana/provisioning/datasources/tokenpulse.yml")["datasources"]
    scrape = read(written / "prometheus/prometheus.yml")["global"]["scrape_interval"]

    assert sources[0]["jsonData"]["timeInterval"] == scrape

"""The dashboard: what Grafana needs to show it anywhere."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

from .files import panels, read

DASHBOARD = "grafana/dashboards/tokenpulse.json"


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether two panels want the same place."""
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_panels_have_ids_and_places_of_their_own(written: Path) -> None:
    """None covers another, or hangs over the edge."""
    dashboard = read(written / DASHBOARD)["panels"]
    places: list[dict[str, int]] = [panel["gridPos"] for panel in dashboard]

    assert len({panel["id"] for panel in dashboard}) == len(dashboard)
    assert not [pair for pair in combinations(places, 2) if overlap(*pair)]
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_it_is_bound_to_no_data_source(written: Path) -> None:
    """Whoever imports it chooses one."""
    text = (written / DASHBOARD).read_text()

    assert set(re.findall(r'"uid": "([^"]+)"', text)) == {"tokenpulse", "${datasource}"}
    names = [each["name"] for each in read(written / DASHBOARD)["templating"]["list"]]
    assert names == ["datasource", "provider"]


def test_rates_fit_the_resolution(written: Path) -> None:
    """A fixed window would miss samples when zoomed out, and show nothing when zoomed in."""
    for panel in panels(written):
        for target in panel["targets"]:
            windows = set(re.findall(r"\[([^\]]+)\]", target["expr"]))
            assert windows <= {"$__rate_interval"}, panel["title"]


def test_every_query_can_be_told_apart(written: Path) -> None:
    """By its letter, and its lines by their labels."""
    for panel in panels(written):
        targets: list[dict[str, Any]] = panel["targets"]
        assert len({target["refId"] for target in targets}) == len(targets)
        assert all(target["legendFormat"] for target in targets), panel["title"]


def test_a_line_is_named_by_labels_that_it_has(written: Path) -> None:
    """What is not grouped by has no name, unless nothing is added up."""
    for panel in panels(written):
        for target in panel["targets"]:
            grouped = re.search(r"by \(([^)]*)\)", target["expr"])
            labels = set(grouped[1].split(", ")) if grouped else {"instance"}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, panel["title"]


def test_grafana_finds_it(written: Path) -> None:
    """It loads the folder that the compose file mounts, and asks the services that it starts."""
    grafana = read(written / "docker-compose.yml")["services"]["grafana"]
    provider = read(written / "grafana/provisioning/dashboards/tokenpulse.yml")["providers"][0]

    mounted = f"./grafana/dashboards:{provider['options']['path']}:ro"
    assert mounted in grafana["volumes"]


def test_zooming_in_never_asks_for_less_than_a_scrape(written: Path) -> None:
    """Grafana must know how often Prometheus scrapes."""
    sources = read(written / "grafana/provisioning/datasources/tokenpulse.yml")["datasources"]
    scrape = read(written / "prometheus/prometheus.yml")["global"]["scrape_interval"]

    assert sources[0]["jsonData"]["timeInterval"] == scrape

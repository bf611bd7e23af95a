"""Every query asks for what exists: each metric, each label and each value is in a live scrape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .files import blocks, panels, rules
from .live import shown
from .promql import groupings, matches, parsed, selectors

# What Prometheus itself adds to every sample, and shows of itself.
OF_THE_TARGET = {"job", "instance"}
OF_PROMETHEUS = {
    "up": [dict[str, str]()],
    "ALERTS": [
        {"alertname": "A", "alertstate": "firing", "service": "tokenpulse", "severity": "warning"}
        | {"provider": "claude"}
    ],
}


def queries(directory: Path) -> Iterator[tuple[str, str]]:
    """Every query of the files and of the documentation, and where it is from."""
    for rule in rules(directory):
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels(directory):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for block in blocks("monitoring.md", "promql"):
        yield "monitoring.md", block


@pytest.fixture(scope="module")
def known(written: Path) -> dict[str, list[dict[str, str]]]:
    """Label sets by metric: those of a gateway, of Prometheus, and of the recording rules."""
    recorded = {
        rule["record"]: [{"provider": "claude"}] for rule in rules(written) if "record" in rule
    }
    live = {name: [dict(each) for each in sets] for name, sets in shown().items()}
    return OF_PROMETHEUS | recorded | live


def test_every_metric_exists(written: Path, known: dict[str, list[dict[str, str]]]) -> None:
    """No query asks for a metric that no gateway shows."""
    asked = {
        (where, str(selector.name))
        for where, query in queries(written)
        for selector in selectors(parsed(query))
    }

    assert len(asked) > 60
    assert {each for each in asked if each[1] not in known} == set()


def test_every_label_exists(written: Path, known: dict[str, list[dict[str, str]]]) -> None:
    """No query groups by a label that its metrics do not have: that would be one empty group."""
    for where, query in queries(written):
        for labels, metrics in groupings(parsed(query)):
            existing = {label for name in metrics for each in known[name] for label in each}
            assert labels <= existing | OF_THE_TARGET, where


def test_every_value_exists(written: Path, known: dict[str, list[dict[str, str]]]) -> None:
    """Each selector finds something; a wrong status, outcome or bucket would find nothing."""
    for where, query in queries(written):
        for selector in selectors(parsed(query)):
            labels = {each.name for each in selector.matchers.matchers} - OF_THE_TARGET
            found = [
                each
                for each in known[str(selector.name)]
                if all(label in each and matches(selector, label, each[label]) for label in labels)
            ]
            assert found, (where, str(selector))


def test_every_family_is_asked_for(written: Path) -> None:
    """Nothing is exported that neither the rules nor the dashboard look at."""
    asked = {
        str(selector.name) for _, query in queries(written) for selector in selectors(parsed(query))
    }
    ours = {name for name in shown() if name.startswith("tokenpulse_")}
    families = {name.removesuffix("_bucket") for name in ours if name.endswith("_bucket")}
    families |= {name for name in ours if not name.endswith(("_bucket", "_sum", "_count"))}

    assert {name for name in families if not {name, f"{name}_bucket"} & asked} == set()

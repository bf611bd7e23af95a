"""The pages on monitoring and operations: what is on them can be used as it stands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from starlette.routing import Route

from tokenpulse_mw import HealthRouter, HttpMetrics, Settings

from ..support.servers import need
from ..support.waiting import PATIENCE
from .files import DOCS, blocks, panels, read

PAGES = ["monitoring.md", "operations.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_block_is_yaml(page: str) -> None:
    """And says something."""
    assert blocks(page, "yaml")
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.slow
def test_prometheus_takes_the_settings_of_the_page(written: Path, tmp_path: Path) -> None:
    """With the rules beside them, and the token in its file."""
    need("promtool", "prometheus")
    (settings,) = (each for each in blocks("monitoring.md", "yaml") if "scrape_configs" in each)
    (tmp_path / "prometheus.yml").write_text(settings)
    (tmp_path / "rules").symlink_to(written / "prometheus" / "rules")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "metrics_token").write_text("token")

    said = subprocess.check_output(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], text=True, timeout=PATIENCE
    )

    assert "1 rule files found" in said


@pytest.mark.slow
def test_prometheus_takes_the_job_for_kubernetes(tmp_path: Path) -> None:
    """It has the name that the rules look for, and keeps the port of the Service."""
    need("promtool", "prometheus")
    (block,) = (each for each in blocks("operations.md", "yaml") if "scrape_configs" in each)
    settings = yaml.safe_load(block)
    (job,) = settings["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "endpoints"}]  # Debian builds without it
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))

    subprocess.check_call(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], timeout=PATIENCE
    )

    assert job["job_name"] == "tokenpulse"
    assert job["relabel_configs"][0]["regex"] == "tokenpulse;http"


@pytest.mark.slow
def test_alertmanager_takes_the_receivers_of_the_page(written: Path, tmp_path: Path) -> None:
    """In the place of the one that is written."""
    need("amtool", "prometheus-alertmanager")
    (receivers,) = (each for each in blocks("monitoring.md", "yaml") if "receivers" in each)
    settings = read(written / "alertmanager/alertmanager.yml") | yaml.safe_load(receivers)
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(settings))

    said = subprocess.check_output(
        ["amtool", "check-config", tmp_path / "alertmanager.yml"], text=True, timeout=PATIENCE
    )

    assert "SUCCESS" in said


def test_the_guides_queries_are_on_the_dashboard(written: Path) -> None:
    """Requests a second by route, the 95th percentile by provider, and the share of 5xx."""
    asked = {target["expr"] for panel in panels(written) for target in panel["targets"]}
    bare = {re.sub(r'{provider=~"\$provider"}|,provider=~"\$provider"', "", each) for each in asked}
    rate = "rate(tokenpulse_http_{}[$__rate_interval])"
    requests = rate.format("requests_total")
    errors = rate.format('requests_total{status=~"5.."}')
    durations = rate.format("request_duration_seconds_bucket")

    assert bare >= {
        f"sum by (method, route) ({requests})",
        f"histogram_quantile(0.95, sum by (le, provider) ({durations}))",
        f"sum by (provider) ({errors}) / sum by (provider) ({requests})",
    }


def test_the_page_names_every_file(written: Path) -> None:
    """Or the folder that it is in."""
    page = (DOCS / "monitoring.md").read_text()
    named = re.findall(r"`([\w./-]+)`", "".join(re.findall(r"^\| `[^|]+\|", page, re.MULTILINE)))

    for path in written.rglob("*"):
        name = path.relative_to(written).as_posix()
        assert path.is_dir() or any(name.startswith(each) for each in named), name


def test_the_probes_of_the_page_are_answered() -> None:
    """By HealthRouter."""
    (pod,) = (each for each in blocks("operations.md", "yaml") if "livenessProbe" in each)
    served = {route.path for route in HealthRouter().routes if isinstance(route, Route)}

    assert set(re.findall(r"path: ([\w/]+)", pod)) <= served


def test_every_setting_on_the_page_exists(metrics: HttpMetrics) -> None:
    """Each TOKENPULSE_ variable is a setting's."""
    names = set(re.findall(r"TOKENPULSE_(\w+)", "".join((DOCS / p).read_text() for p in PAGES)))

    assert names
    assert {name.lower() for name in names} <= set(Settings.__dataclass_fields__)

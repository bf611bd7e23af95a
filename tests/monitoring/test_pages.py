"""Examples on the pages about monitoring and operations."""

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
def test_yaml_blocks_are_valid(page: str) -> None:
    """Each block is a mapping."""
    assert blocks(page, "yaml")
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.slow
def test_promtool_accepts_the_configuration_of_the_page(written: Path, tmp_path: Path) -> None:
    """The rules and the token file are next to the configuration."""
    need("promtool", "prometheus")
    (settings,) = (block for block in blocks("monitoring.md", "yaml") if "scrape_configs" in block)
    (tmp_path / "prometheus.yml").write_text(settings)
    (tmp_path / "rules").symlink_to(written / "prometheus" / "rules")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "metrics_token").write_text("token")

    output = subprocess.check_output(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], text=True, timeout=PATIENCE
    )

    assert "1 rule files found" in output


@pytest.mark.slow
def test_promtool_accepts_the_kubernetes_job_of_the_page(tmp_path: Path) -> None:
    """The job has the name that the rules select, and the port of the Service."""
    need("promtool", "prometheus")
    (block,) = (text for text in blocks("operations.md", "yaml") if "scrape_configs" in text)
    settings = yaml.safe_load(block)
    (job,) = settings["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [
        {"role": "endpoints"}
    ]  # not built into the Debian package
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))

    subprocess.check_call(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], timeout=PATIENCE
    )

    assert job["job_name"] == "tokenpulse"
    assert job["relabel_configs"][0]["regex"] == "tokenpulse;http"


@pytest.mark.slow
def test_amtool_accepts_the_receivers_of_the_page(written: Path, tmp_path: Path) -> None:
    """The receivers replace that of the written file."""
    need("amtool", "prometheus-alertmanager")
    (receivers,) = (block for block in blocks("monitoring.md", "yaml") if "receivers" in block)
    settings = read(written / "alertmanager/alertmanager.yml") | yaml.safe_load(receivers)
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(settings))

    output = subprocess.check_output(
        ["amtool", "check-config", tmp_path / "alertmanager.yml"], text=True, timeout=PATIENCE
    )

    assert "SUCCESS" in output


def test_dashboard_has_the_main_queries(written: Path) -> None:
    """Requests per second, 95th percentile by provider, and ratio of 5xx responses."""
    queries = {target["expr"] for panel in panels(written) for target in panel["targets"]}
    unfiltered = {
        re.sub(r'{provider=~"\$provider"}|,provider=~"\$provider"', "", query) for query in queries
    }
    rate = "rate(tokenpulse_http_{}[$__rate_interval])"
    requests = rate.format("requests_total")
    errors = rate.format('requests_total{status=~"5.."}')
    durations = rate.format("request_duration_seconds_bucket")

    assert unfiltered >= {
        f"sum by (method, route) ({requests})",
        f"histogram_quantile(0.95, sum by (le, provider) ({durations}))",
        f"sum by (provider) ({errors}) / sum by (provider) ({requests})",
    }


def test_page_lists_every_file(written: Path) -> None:
    """The page lists each file, or its folder."""
    page = (DOCS / "monitoring.md").read_text()
    listed = re.findall(r"`([\w./-]+)`", "".join(re.findall(r"^\| `[^|]+\|", page, re.MULTILINE)))

    for path in written.rglob("*"):
        name = path.relative_to(written).as_posix()
        assert path.is_dir() or any(name.startswith(prefix) for prefix in listed), name


def test_probes_of_the_page_are_routes() -> None:
    """`HealthRouter` serves the paths of the probes."""
    (pod,) = (block for block in blocks("operations.md", "yaml") if "livenessProbe" in block)
    served = {route.path for route in HealthRouter().routes if isinstance(route, Route)}

    assert set(re.findall(r"path: ([\w/]+)", pod)) <= served


def test_settings_on_the_pages_exist(metrics: HttpMetrics) -> None:
    """Each TOKENPULSE_ variable is a setting."""
    names = set(
        re.findall(r"TOKENPULSE_(\w+)", "".join((DOCS / page).read_text() for page in PAGES))
    )

    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)

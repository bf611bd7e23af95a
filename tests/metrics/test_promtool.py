"""Scrape checked by promtool."""

from __future__ import annotations

import subprocess

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tokenpulse_mw import HttpMetrics, metrics_routes
from tokenpulse_mw.metrics.rows import Series
from tokenpulse_mw.metrics.text_format import render_chunks

from ..support.servers import need
from ..support.waiting import PATIENCE

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def promtool() -> None:
    """Skip the tests if Prometheus is not installed."""
    need("promtool", "prometheus")


def check(text: bytes) -> tuple[int, bytes]:
    """Return the exit code and the output of promtool."""
    command = ["promtool", "check", "metrics"]
    result = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE
    )
    return result.returncode, result.stdout


def with_samples(series: Series) -> Series:
    """Return a family with at least one sample."""
    family, rows = series
    row = [1.0] * (len(family.buckets) + 2) if family.kind == "histogram" else [1.0]
    return family, rows or {tuple(f'a "{label}"' for label in family.labels): row}


def test_promtool_accepts_every_family(metrics: HttpMetrics) -> None:
    """Format, names, types, units and help texts pass the linter."""
    families = [with_samples(series) for series in metrics.series()]

    assert families
    assert check(b"".join(render_chunks(families))) == (0, b"")


def test_promtool_accepts_the_scrape(metrics: HttpMetrics) -> None:
    """The scrape includes families without samples."""
    client = TestClient(Starlette(routes=metrics_routes(metrics)))

    assert check(client.get("/metrics").content) == (0, b"")


def test_promtool_rejects_a_counter_without_total(metrics: HttpMetrics) -> None:
    """The linter of promtool detects an invalid name."""
    code, output = check(b"# HELP requests Requests\n# TYPE requests counter\nrequests 1\n")

    assert code != 0
    assert b"_total" in output

"""The scrape before Prometheus's own inspector."""

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
    """It comes with Prometheus."""
    need("promtool", "prometheus")


def check(text: bytes) -> tuple[int, bytes]:
    """Its exit code, and everything that it has to say."""
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE
    )
    return done.returncode, done.stdout


def with_samples(series: Series) -> Series:
    """A family with a sample, be it an invented one."""
    family, rows = series
    row = [1.0] * (len(family.buckets) + 2) if family.kind == "histogram" else [1.0]
    return family, rows or {tuple(f'a "{label}"' for label in family.labels): row}


def test_it_has_no_complaint_about_any_family(metrics: HttpMetrics) -> None:
    """Neither of the format nor of names, types, units and help."""
    families = [with_samples(series) for series in metrics.series()]

    assert families
    assert check(b"".join(render_chunks(families))) == (0, b"")


def test_it_has_no_complaint_about_the_answer(metrics: HttpMetrics) -> None:
    """As it is served, families that have no samples yet among it."""
    client = TestClient(Starlette(routes=metrics_routes(metrics)))

    assert check(client.get("/metrics").content) == (0, b"")


def test_it_would_complain(metrics: HttpMetrics) -> None:
    """Its silence means something."""
    code, said = check(b"# HELP requests Requests\n# TYPE requests counter\nrequests 1\n")

    assert code != 0
    assert b"_total" in said

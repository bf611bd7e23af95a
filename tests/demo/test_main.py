"""Entry point of the demo."""

from __future__ import annotations

import re

import pytest

from tokenpulse_mw.cli import main
from tokenpulse_mw.demo import main as demo_main
from tokenpulse_mw.demo import run_demo
from tokenpulse_mw.demo.scenario import RunningDemo

pytestmark = pytest.mark.slow


def test_demo_passes_its_checks(capsys: pytest.CaptureFixture[str]) -> None:
    """With a time limit, it completes the scenario, prints the report, and exits with 0."""
    assert main(["demo", "--seconds", "0.1"]) == 0

    output = capsys.readouterr().out
    assert output.startswith("gateway started: url=http://127.0.0.1:")
    assert re.search(r"\nopen http://127\.0\.0\.1:\d+/admin/  token: [\w-]{20,}\n", output)
    assert "\nburst started: requests=150 limit=100/minute\n" in output
    assert "\nalert fired: id=provider_down:apikey:gemini-demo title=" in output
    assert "FAILED" not in output
    assert output.count("[ok]") == 7
    assert "429      50" in output
    assert "provider_down:apikey:gemini-demo fired 1x" in output
    assert "/api/credentials/status" in output


def test_failed_check_exits_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the scenario is not a failure."""

    async def send_nothing(demo: RunningDemo, log: object) -> None:
        return

    async def interrupt(demo: RunningDemo, deadline: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_main, "run_scenario", send_nothing)
    assert run_demo(seconds=0) == 1
    assert capsys.readouterr().out.count("[FAILED]") == 5
    monkeypatch.setattr(demo_main, "send_until", interrupt)
    assert run_demo() == 0
    assert capsys.readouterr().out.endswith("demo stopped\n")

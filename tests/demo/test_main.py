"""The demo: it runs, and what it promises comes true."""

from __future__ import annotations

import pytest

from tokenpulse_mw.cli import main
from tokenpulse_mw.demo import main as demo
from tokenpulse_mw.demo import run_demo
from tokenpulse_mw.demo.scenario import Stage

pytestmark = pytest.mark.slow


def test_the_demo_keeps_its_promises(capsys: pytest.CaptureFixture[str]) -> None:
    """With a time to end, it runs through, reports, and exits with 0."""
    assert main(["demo", "--seconds", "0.1"]) == 0

    report = capsys.readouterr().out
    assert "FAILED" not in report
    assert report.count("[ok]") == 7
    assert "429      50" in report
    assert "provider_down:apikey:gemini-demo fired 1x" in report
    assert "/api/credentials/status" in report


def test_a_broken_promise_is_an_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs it in a script is told; Ctrl-C later is no failure."""

    async def nothing_happens(stage: Stage, say: object) -> None:
        return

    async def interrupted(stage: Stage, until: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "play", nothing_happens)
    assert run_demo(seconds=0) == 1
    assert capsys.readouterr().out.count("[FAILED]") == 5
    monkeypatch.setattr(demo, "keep_on", interrupted)
    assert run_demo() == 0
    assert capsys.readouterr().out.endswith("stopped\n")

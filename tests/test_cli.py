"""The command."""

from __future__ import annotations

import runpy
import socket
import sys

import pytest

from tokenpulse_mw.cli import main


def test_the_module_is_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m tokenpulse_mw` says what it can do."""
    monkeypatch.setattr(sys, "argv", ["tokenpulse_mw", "--help"])

    with pytest.raises(SystemExit) as ended:
        runpy.run_module("tokenpulse_mw", run_name="__main__")

    assert ended.value.code == 0
    assert "usage: tokenpulse-mw" in capsys.readouterr().out


def test_without_a_command_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """It says what is missing, with the exit code of a wrong call."""
    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 2
    assert "command" in capsys.readouterr().err


def test_the_demo_needs_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, the error says what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("tokenpulse_mw.demo")]:
        monkeypatch.delitem(sys.modules, name)

    assert main(["demo"]) == 2
    assert "pip install 'tokenpulse-mw[demo]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names it, with no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2

    assert capsys.readouterr().err.startswith(f"port {port} cannot be served: ")


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_what_is_no_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(SystemExit):
        main(["demo", f"--port={port}"])

    assert f"expected a number from 0 to 65535, got '{port}'" in capsys.readouterr().err
